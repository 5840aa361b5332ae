package uic.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.core.memory.MemorySegment;
import org.apache.flink.core.memory.MemorySegmentFactory;
import org.apache.flink.runtime.execution.SuppressRestartsException;
import org.apache.flink.util.FlinkRuntimeException;
import pemja.core.PythonInterpreter;
import pemja.core.PythonInterpreterConfig;

/** operators/batched.py of one subtask: how it is opened, and its calls as methods. What it could not do is an exception here. */
final class PythonUpdates implements AutoCloseable {
    /** For log times: none. */
    static final long NO_TIME = Long.MIN_VALUE;

    private static final int OK = 0;
    private static final int CORRUPT_MEMORY = 2;
    private static final int FORGET = 3;
    // The main interpreter's names are shared by all subtasks of this JVM.
    private static final AtomicInteger NEXT_NAME = new AtomicInteger();
    // The interpreter outlives its jobs: an earlier one, of either plan, leaves a working directory and modules whose files are
    // gone with it. Without this the next job finds no modules, or runs old code.
    private static final String CLEAN =
            String.join(
                    "\n",
                    "import os, sys, importlib",
                    "os.chdir(uic_home)",
                    "if 'operators.metrics' in sys.modules: sys.modules['operators.metrics'].release()",
                    "for name in [n for n in sys.modules if n.partition('.')[0] in ('uic', 'operators')]: del sys.modules[name]",
                    "sys.path[:] = [path for path in sys.path if not path or os.path.exists(path)]",
                    "importlib.invalidate_caches()");

    /** What a control message came to: of a user to forget, or of what is to be kept (empty: nothing). */
    record Heeded(String forgotten, byte[] kept) {}

    private final PythonInterpreter interpreter;
    private final String name = "uic_updates_" + NEXT_NAME.getAndIncrement();
    private final int blobSize;
    private final int generation;
    private final MemorySegment memories;

    /**
     * @param saved what an earlier control message left to be known before the first batch; empty where there was none
     * @param owner of the memory that both languages see
     */
    PythonUpdates(UpdateSettings settings, RuntimeContext context, byte[] saved, Object owner) {
        PythonInterpreterConfig.PythonInterpreterConfigBuilder config =
                PythonInterpreterConfig.newBuilder()
                        .setPythonExec(settings.python())
                        .setExcType(PythonInterpreterConfig.ExecType.MULTI_THREAD);
        for (String file : settings.shipped()) {
            config.addPythonPaths(context.getDistributedCache().getFile(file).getAbsolutePath());
        }
        String pythonPath = System.getenv("PYTHONPATH");
        if (pythonPath != null) {
            config.addPythonPaths(pythonPath);
        }
        interpreter = new PythonInterpreter(config.build());
        try {
            interpreter.set("uic_home", System.getProperty("java.io.tmpdir"));
            interpreter.exec(CLEAN);
            interpreter.exec("from operators.batched import open_batched as uic_open_batched");
            interpreter.set("uic_settings", settings.rules());
            interpreter.set("uic_saved", saved);
            interpreter.set("uic_subtask", context.getTaskInfo().getIndexOfThisSubtask());
            interpreter.exec(name + ", uic_problem = uic_open_batched(uic_settings, bytes(uic_saved), uic_subtask)");
            Object problem = interpreter.get("uic_problem");
            if (problem != null) {
                throw new FlinkRuntimeException("the update operator could not open:\n" + problem);
            }
            blobSize = ((Number) attribute("blob_size")).intValue();
            generation = ((Number) attribute("generation")).intValue();
            int bytes = Math.multiplyExact(settings.capacity(), blobSize);
            memories = MemorySegmentFactory.allocateUnpooledOffHeapMemory(bytes, owner);
            call("share", memories.getAddress(), memories.size());
        } catch (RuntimeException error) {
            close();
            throw error;
        }
    }

    /** Bytes of a memory of the layout that is active. */
    int blobSize() {
        return blobSize;
    }

    int generation() {
        return generation;
    }

    /** Whether the state may hold memories of users who were forgotten since its checkpoint. */
    boolean mustSweep() {
        return (Boolean) attribute("must_sweep");
    }

    /** Put a memory of this layout where `apply` looks for it: they lie side by side. */
    void share(int place, byte[] blob) {
        memories.put(blobSize * place, blob);
    }

    /** Take a memory from where `apply` has left it. */
    void take(int place, byte[] blob) {
        memories.get(blobSize * place, blob);
    }

    /** Apply a batch (Batch.request); the answer is BatchedUpdate.take's. */
    ByteBuffer apply(byte[] request) {
        byte[] answer = (byte[]) call("apply", (Object) request);
        if (answer[0] == CORRUPT_MEMORY) {
            // The same checkpoint would give the same bytes again: whoever resumes must take an older one.
            throw new SuppressRestartsException(new FlinkRuntimeException(text(answer)));
        }
        if (answer[0] != OK) {
            throw new FlinkRuntimeException("a batch of events could not be applied:\n" + text(answer));
        }
        return ByteBuffer.wrap(answer).order(ByteOrder.LITTLE_ENDIAN).position(1);
    }

    Heeded control(byte[] message) {
        byte[] answer = (byte[]) call("control", (Object) message);
        if (answer[0] == FORGET) {
            return new Heeded(text(answer), new byte[0]);
        }
        if (answer[0] != OK) {
            throw new FlinkRuntimeException("a control message could not be heeded:\n" + text(answer));
        }
        return new Heeded(null, Arrays.copyOfRange(answer, 1, answer.length));
    }

    /** The record that goes out for the user whom the last control message told to forget; empty where nothing is to be done. */
    byte[] forget(long logTimeMs) {
        return (byte[]) call("forget", logTimeMs);
    }

    /** Of each user, ids as BatchedUpdate.sweep writes them: up to which log time their events are forgotten; or NO_TIME. */
    ByteBuffer forgottenUntil(byte[] ids) {
        return ByteBuffer.wrap((byte[]) call("forgotten_until", (Object) ids)).order(ByteOrder.LITTLE_ENDIAN);
    }

    @Override
    public void close() {
        interpreter.exec(CLEAN);
        interpreter.close();
    }

    private Object attribute(String of) {
        return call("__getattribute__", of);
    }

    private Object call(String method, Object... arguments) {
        return interpreter.invokeMethod(name, method, arguments);
    }

    private static String text(byte[] answer) {
        return new String(answer, 1, answer.length - 1, StandardCharsets.UTF_8);
    }
}
