package uic.flink;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.flink.api.common.TaskInfo;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.core.memory.MemorySegment;
import org.apache.flink.core.memory.MemorySegmentFactory;
import org.apache.flink.runtime.execution.SuppressRestartsException;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;
import org.apache.flink.util.FlinkRuntimeException;
import pemja.core.PythonInterpreter;
import pemja.core.PythonInterpreterConfig;

/**
 * The update operator of the batched plan: collects events of many users and hands them to Python, with their memories, in one
 * call. All decisions are Python's (operators/batched.py); here is only when to call, and the state.
 *
 * <p>A batch is flushed when it is full, a few milliseconds after its first event, at a watermark, at the end of the input, and
 * always before a checkpoint barrier: nothing is ever outside a checkpoint.
 *
 * <p>Where its events come from is said by EventsUpdate.java, which has them alone, and ControlledUpdate.java, which also takes
 * control messages. Input: ROW(user id, wire bytes of operators/wire.py). Output: what OutgoingWriter.java takes.
 */
public abstract class BatchedUpdate extends AbstractStreamOperator<Row> implements Triggerable<Row, VoidNamespace> {

    private static final long serialVersionUID = 1L;
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
    private static final int OK = 0;
    private static final int CORRUPT_MEMORY = 2;
    private static final int FORGET = 3;
    private static final int SWEPT_AT_ONCE = 10_000;
    private static final int LOG_TIME_OFFSET = 48; // in a blob, uic/codec.py
    private static final long NO_TIME = Long.MIN_VALUE;

    private final String python;
    private final String[] shipped;
    private final String settings;
    private final String stateName;
    private final int capacity;
    private final long waitMs;
    private final long idleAfterMs;
    private final long silentBeforeMs;
    private final boolean publishes;

    private transient ValueState<byte[]> memory;
    private transient InternalTimerService<VoidNamespace> timers;
    private transient PythonInterpreter interpreter;
    private transient String updates;
    private transient MemorySegment memories; // seen by both languages
    private transient int blobSize;
    private transient int generation;
    private transient KeyedStateBackend<Row> backend;
    private transient int maxParallelism;
    private transient Map<String, Integer> places;
    private transient List<Row> keys;
    private transient int[] keyGroups;
    private transient List<byte[]> userIds;
    private transient byte[][] events;
    private transient byte[] request;
    private transient int[] userOf;
    private transient int count;
    private transient long flushAt;

    /**
     * @param python the interpreter's executable on the workers
     * @param shipped names under which files for Python's path (the project's wheel) were registered with the job
     * @param settings JSON for operators/batched.py
     * @param idleAfterMs users idle for longer, in log time, leave the state; 0: never
     * @param silentBeforeMs memories of earlier log time are published when the log has come so far; 0: all at once
     * @param publishes whether new memories go out as snapshots; false where Python writes the store itself
     */
    protected BatchedUpdate(
            String python,
            String[] shipped,
            String settings,
            String stateName,
            int capacity,
            long waitMs,
            long idleAfterMs,
            long silentBeforeMs,
            boolean publishes) {
        this.python = python;
        this.shipped = shipped;
        this.settings = settings;
        this.stateName = stateName;
        this.capacity = capacity;
        this.waitMs = waitMs;
        this.idleAfterMs = idleAfterMs;
        this.silentBeforeMs = silentBeforeMs;
        this.publishes = publishes;
    }

    @Override
    public void open() throws Exception {
        super.open();
        memory = getRuntimeContext()
                .getState(new ValueStateDescriptor<>(stateName, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
        // PyFlink's keyed operators always have a service of this name; a savepoint of one plan restores into the other.
        timers = getInternalTimerService("user-timers", VoidNamespaceSerializer.INSTANCE, this);
        backend = getKeyedStateBackend();
        maxParallelism = getRuntimeContext().getTaskInfo().getMaxNumberOfParallelSubtasks();
        places = new HashMap<>();
        keys = new ArrayList<>();
        keyGroups = new int[capacity];
        userIds = new ArrayList<>();
        events = new byte[capacity][];
        request = new byte[0];
        userOf = new int[capacity];
        count = 0;
        flushAt = Long.MAX_VALUE;
        openPython();
    }

    private void openPython() throws Exception {
        PythonInterpreterConfig.PythonInterpreterConfigBuilder config =
                PythonInterpreterConfig.newBuilder()
                        .setPythonExec(python)
                        .setExcType(PythonInterpreterConfig.ExecType.MULTI_THREAD);
        for (String name : shipped) {
            config.addPythonPaths(getRuntimeContext().getDistributedCache().getFile(name).getAbsolutePath());
        }
        String pythonPath = System.getenv("PYTHONPATH");
        if (pythonPath != null) {
            config.addPythonPaths(pythonPath);
        }
        interpreter = new PythonInterpreter(config.build());
        interpreter.set("uic_home", System.getProperty("java.io.tmpdir"));
        interpreter.exec(CLEAN);
        updates = "uic_updates_" + NEXT_NAME.getAndIncrement();
        interpreter.exec("from operators.batched import open_batched as uic_open_batched");
        interpreter.set("uic_settings", settings);
        interpreter.set("uic_saved", saved());
        interpreter.set("uic_subtask", getRuntimeContext().getTaskInfo().getIndexOfThisSubtask());
        interpreter.exec(updates + ", uic_problem = uic_open_batched(uic_settings, bytes(uic_saved), uic_subtask)");
        Object problem = interpreter.get("uic_problem");
        if (problem != null) {
            throw new FlinkRuntimeException("the update operator could not open:\n" + problem);
        }
        blobSize = ((Number) interpreter.invokeMethod(updates, "__getattribute__", "blob_size")).intValue();
        generation = ((Number) interpreter.invokeMethod(updates, "__getattribute__", "generation")).intValue();
        memories = MemorySegmentFactory.allocateUnpooledOffHeapMemory(Math.multiplyExact(capacity, blobSize), this);
        interpreter.invokeMethod(updates, "share", memories.getAddress(), memories.size());
        if ((Boolean) interpreter.invokeMethod(updates, "__getattribute__", "must_sweep")) {
            sweep();
        }
    }

    /** An element needs no key set for it: its state is read at the flush. Hashing rows was a third of the time spent in Java. */
    @Override
    public boolean hasKeyContext1() {
        return false;
    }

    protected final void add(StreamRecord<Row> element) throws Exception {
        Row row = element.getValue();
        String user = (String) row.getField(0);
        Integer place = places.get(user);
        if (place == null) {
            place = keys.size();
            places.put(user, place);
            Row key = Row.of(user); // as KeyByKeySelector makes it
            keys.add(key);
            keyGroups[place] = KeyGroupRangeAssignment.assignToKeyGroup(key, maxParallelism);
            userIds.add(user.getBytes(StandardCharsets.UTF_8));
        }
        events[count] = (byte[]) row.getField(1);
        userOf[count] = place;
        count++;
        if (count == capacity) {
            flush();
        } else if (count == 1) {
            long at = getProcessingTimeService().getCurrentProcessingTime() + waitMs;
            flushAt = at;
            getProcessingTimeService().registerTimer(at, this::onFlushTimer);
        }
    }

    private void onFlushTimer(long time) throws Exception {
        if (time == flushAt) {
            flush();
        }
    }

    @Override
    public void prepareSnapshotPreBarrier(long checkpointId) throws Exception {
        flush();
        super.prepareSnapshotPreBarrier(checkpointId);
    }

    @Override
    public void processWatermark(Watermark mark) throws Exception {
        flush();
        super.processWatermark(mark);
    }

    @Override
    public void finish() throws Exception {
        flush();
        super.finish();
    }

    @Override
    public void close() throws Exception {
        if (interpreter != null) {
            interpreter.exec(CLEAN);
            interpreter.close();
            interpreter = null;
        }
        super.close();
    }

    /** What an earlier control message left to be known before the first batch; empty where there was none. */
    protected byte[] saved() throws Exception {
        return new byte[0];
    }

    /** Heed a control message between two batches; returns what is to be kept of it, empty where nothing is. */
    protected final byte[] control(byte[] message) throws Exception {
        flush();
        byte[] answer = (byte[]) interpreter.invokeMethod(updates, "control", (Object) message);
        if (answer[0] == FORGET) { // and whom
            forget(new String(answer, 1, answer.length - 1, StandardCharsets.UTF_8));
            return new byte[0];
        }
        if (answer[0] != OK) {
            String why = new String(answer, 1, answer.length - 1, StandardCharsets.UTF_8);
            throw new FlinkRuntimeException("a control message could not be heeded:\n" + why);
        }
        return Arrays.copyOfRange(answer, 1, answer.length);
    }

    /** A user's memory goes, where this subtask is the one that has it; what Python makes of that is sent. */
    private void forget(String user) throws Exception {
        Row key = Row.of(user);
        int group = KeyGroupRangeAssignment.assignToKeyGroup(key, maxParallelism);
        TaskInfo task = getRuntimeContext().getTaskInfo();
        int owner = KeyGroupRangeAssignment.computeOperatorIndexForKeyGroup(
                maxParallelism, task.getNumberOfParallelSubtasks(), group);
        if (owner != task.getIndexOfThisSubtask()) {
            return;
        }
        backend.setCurrentKeyAndKeyGroup(key, group);
        byte[] blob = memory.value();
        byte[] record = (byte[]) interpreter.invokeMethod(updates, "forget", blob == null ? NO_TIME : logTimeMs(blob));
        if (record.length > 0) {
            memory.clear();
            output.collect(new StreamRecord<>(Row.of(record, null)));
        }
    }

    /** Memories that came with an older checkpoint and are of those who were forgotten since: once, before the first event. */
    private void sweep() throws Exception {
        List<Row> found;
        try (Stream<Row> users = backend.getKeys(stateName, VoidNamespace.INSTANCE)) {
            found = users.collect(Collectors.toList());
        }
        for (int start = 0; start < found.size(); start += SWEPT_AT_ONCE) {
            List<Row> part = found.subList(start, Math.min(start + SWEPT_AT_ONCE, found.size()));
            ByteArrayOutputStream ids = new ByteArrayOutputStream();
            for (Row key : part) {
                byte[] id = ((String) key.getField(0)).getBytes(StandardCharsets.UTF_8);
                ids.writeBytes(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(id.length).array());
                ids.writeBytes(id);
            }
            byte[] answer = (byte[]) interpreter.invokeMethod(updates, "forgotten_until", (Object) ids.toByteArray());
            ByteBuffer untils = ByteBuffer.wrap(answer).order(ByteOrder.LITTLE_ENDIAN);
            for (Row key : part) {
                long until = untils.getLong();
                if (until == NO_TIME) {
                    continue;
                }
                backend.setCurrentKey(key);
                byte[] blob = memory.value();
                if (blob != null && logTimeMs(blob) <= until) {
                    memory.clear();
                }
            }
        }
    }

    protected final void flush() throws Exception {
        if (count == 0) {
            return;
        }
        byte[][] blobs = new byte[keys.size()][];
        int shared = 0;
        for (int user = 0; user < blobs.length; user++) {
            backend.setCurrentKeyAndKeyGroup(keys.get(user), keyGroups[user]);
            blobs[user] = memory.value();
            if (isShared(blobs[user])) {
                memories.put(blobSize * shared++, blobs[user]);
            }
        }
        byte[] answer = (byte[]) interpreter.invokeMethod(updates, "apply", (Object) request(blobs));
        if (answer[0] != OK) {
            String why = new String(answer, 1, answer.length - 1, StandardCharsets.UTF_8);
            if (answer[0] == CORRUPT_MEMORY) {
                // The same checkpoint would give the same bytes again: whoever resumes must take an older one.
                throw new SuppressRestartsException(new FlinkRuntimeException(why));
            }
            throw new FlinkRuntimeException("a batch of events could not be applied:\n" + why);
        }
        take(ByteBuffer.wrap(answer).order(ByteOrder.LITTLE_ENDIAN).position(1), blobs);
        places.clear();
        keys.clear();
        userIds.clear();
        count = 0;
        flushAt = Long.MAX_VALUE;
    }

    /**
     * Little-endian: users U, events E (4 bytes each); U lengths of user ids, U lengths of blobs (-1: none), E places of users, E
     * lengths of wires (4 each); then all user ids, the blobs of another length than this layout's, all wires. The other blobs
     * lie in `memories`, side by side. What comes after is of an earlier request.
     */
    private byte[] request(byte[][] blobs) {
        int users = blobs.length;
        int size = 8 + 8 * users + 8 * count;
        for (int user = 0; user < users; user++) {
            size += userIds.get(user).length + (blobs[user] == null || isShared(blobs[user]) ? 0 : blobs[user].length);
        }
        for (int event = 0; event < count; event++) {
            size += events[event].length;
        }
        if (request.length < size || request.length > 2 * size) {
            request = new byte[size + size / 8];
        }
        ByteBuffer out = ByteBuffer.wrap(request).order(ByteOrder.LITTLE_ENDIAN);
        out.putInt(users).putInt(count);
        for (byte[] userId : userIds) {
            out.putInt(userId.length);
        }
        for (byte[] blob : blobs) {
            out.putInt(blob == null ? -1 : blob.length);
        }
        for (int event = 0; event < count; event++) {
            out.putInt(userOf[event]);
        }
        for (int event = 0; event < count; event++) {
            out.putInt(events[event].length);
        }
        for (byte[] userId : userIds) {
            out.put(userId);
        }
        for (byte[] blob : blobs) {
            if (blob != null && !isShared(blob)) {
                out.put(blob);
            }
        }
        for (int event = 0; event < count; event++) {
            out.put(events[event]);
            events[event] = null;
        }
        return request;
    }

    /**
     * Little-endian: changed users C, outgoing records R (4 bytes each); C places of users, R lengths (4 each); R outgoing
     * records. The C new blobs lie in `memories`, side by side.
     *
     * <p>A new blob is written over the old one. It was read in this flush, so no checkpoint holds it: for one that is being
     * written, the backend has handed out a copy. A million users' blobs, each replaced by another object, are work for the garbage
     * collector. What is sent is copied before `collect` returns.
     */
    private void take(ByteBuffer in, byte[][] before) throws Exception {
        int[] users = new int[in.getInt()];
        int[] records = new int[in.getInt()];
        for (int i = 0; i < users.length; i++) {
            users[i] = in.getInt();
        }
        for (int i = 0; i < records.length; i++) {
            records[i] = in.getInt();
        }
        for (int length : records) {
            byte[] record = new byte[length];
            in.get(record);
            output.collect(new StreamRecord<>(Row.of(record, null)));
        }
        for (int i = 0; i < users.length; i++) {
            int user = users[i];
            byte[] blob = before[user] == null ? new byte[blobSize] : before[user];
            memories.get(blobSize * i, blob);
            backend.setCurrentKeyAndKeyGroup(keys.get(user), keyGroups[user]);
            memory.update(blob);
            if (idleAfterMs > 0 && before[user] == null) {
                timers.registerEventTimeTimer(VoidNamespace.INSTANCE, logTimeMs(blob) + idleAfterMs + 1);
            }
            if (logTimeMs(blob) < silentBeforeMs) {
                timers.registerEventTimeTimer(VoidNamespace.INSTANCE, silentBeforeMs - 1);
            } else if (publishes) {
                output.collect(new StreamRecord<>(Outgoing.snapshot(userIds.get(user), blob)));
            }
        }
    }

    private boolean isShared(byte[] blob) {
        return blob != null && blob.length == blobSize;
    }

    /**
     * Either the log has come to where memories are published again, and this one was not; or the user may be idle: one timer a
     * user, moved on when it comes.
     */
    @Override
    public void onEventTime(InternalTimer<Row, VoidNamespace> timer) throws Exception {
        byte[] blob = memory.value();
        if (blob == null) {
            return;
        }
        byte[] user = ((String) timer.getKey().getField(0)).getBytes(StandardCharsets.UTF_8);
        if (timer.getTimestamp() == silentBeforeMs - 1 && logTimeMs(blob) < silentBeforeMs) {
            output.collect(new StreamRecord<>(Outgoing.snapshot(user, blob)));
            return;
        }
        if (idleAfterMs <= 0) {
            return;
        }
        long leavesAt = logTimeMs(blob) + idleAfterMs + 1;
        if (leavesAt > timer.getTimestamp()) {
            timers.registerEventTimeTimer(VoidNamespace.INSTANCE, leavesAt);
            return;
        }
        memory.clear();
        output.collect(new StreamRecord<>(Outgoing.departure(user, generation)));
    }

    @Override
    public void onProcessingTime(InternalTimer<Row, VoidNamespace> timer) {
        // None is ever registered here; one of PyFlink's may come with a savepoint.
    }

    private static long logTimeMs(byte[] blob) {
        return ByteBuffer.wrap(blob).order(ByteOrder.LITTLE_ENDIAN).getLong(LOG_TIME_OFFSET);
    }
}
