package uic.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.typeutils.RowTypeInfo;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.state.StateBackend;
import org.apache.flink.runtime.state.StateBackendLoader;
import org.apache.flink.state.api.OperatorIdentifier;
import org.apache.flink.state.api.OperatorTransformation;
import org.apache.flink.state.api.SavepointWriter;
import org.apache.flink.state.api.StateBootstrapTransformation;
import org.apache.flink.state.api.functions.KeyedStateBootstrapFunction;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.types.Row;

/**
 * Writes a savepoint from files of packed memories (SavepointMemoryFile.java), with Flink's State Processor API in this JVM. A job
 * of either plan starts from it: the operator's uid, the state's name, the types of key and value, the maximum parallelism and
 * the timers are those of operators/contract.py, as BatchedUpdate.java and PyFlink have them.
 *
 * <p>State is built up in RocksDB on disk, so memory use does not grow with the number of users; the savepoint is canonical, so
 * that it restores into any backend.
 *
 * <p>On standard output: a line "users N" now and then, and at the end.
 */
public final class SavepointOfMemories {

    private static final int LOG_TIME_OFFSET = 48; // in a blob, uic/codec.py
    private static final int SAY_EVERY = 10_000;
    // Of this JVM, in which all subtasks run.
    private static final AtomicLong USERS = new AtomicLong();

    private SavepointOfMemories() {}

    /**
     * @param args the savepoint's URI; the operator's uid; the state's name; maximum parallelism; parallelism; after how many ms
     *     idle users leave, 0 for never; a folder for temporary files; a file that names the files of memories, one a line
     */
    public static void main(String[] args) throws Exception {
        long idleAfterMs = Long.parseLong(args[5]);
        Configuration flink = new Configuration();
        flink.setString("state.backend.type", "rocksdb");
        // Memories are random numbers to a compressor.
        flink.setString("state.backend.rocksdb.compression.per.level", "NO_COMPRESSION");
        flink.setString("io.tmp.dirs", args[6]);
        flink.setString("taskmanager.memory.managed.size", "256m");
        flink.setString("rest.port", "0");
        flink.setString("rest.bind-address", "localhost");
        flink.setString("restart-strategy.type", "none");
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(flink);
        environment.setParallelism(Integer.parseInt(args[4]));
        environment.setRuntimeMode(RuntimeExecutionMode.STREAMING);
        environment.getConfig().enableObjectReuse();

        List<String> files = Files.readAllLines(Path.of(args[7]));
        DataStream<Tuple2<String, byte[]>> memories =
                environment
                        .fromData(files, Types.STRING)
                        .rebalance()
                        .flatMap(new SavepointMemoryFile())
                        .returns(Types.TUPLE(Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
        StateBootstrapTransformation<Tuple2<String, byte[]>> state =
                OperatorTransformation.bootstrapWith(memories)
                        .keyBy(new User(), new RowTypeInfo(Types.STRING))
                        .transform(new Save(args[2], idleAfterMs));
        StateBackend backend = StateBackendLoader.loadStateBackendFromConfig(flink, SavepointOfMemories.class.getClassLoader(), null);
        SavepointWriter.newSavepoint(environment, backend, Integer.parseInt(args[3]))
                .withOperator(OperatorIdentifier.forUid(args[1]), state)
                .write(args[0]);
        environment.execute("savepoint of memories");
        say();
    }

    private static void say() {
        System.out.println("users " + USERS.get());
        System.out.flush();
    }

    /** The key as KeyByKeySelector of PyFlink makes it. */
    private static final class User implements KeySelector<Tuple2<String, byte[]>, Row> {
        private static final long serialVersionUID = 1L;

        @Override
        public Row getKey(Tuple2<String, byte[]> memory) {
            return Row.of(memory.f0);
        }
    }

    private static final class Save extends KeyedStateBootstrapFunction<Row, Tuple2<String, byte[]>> {
        private static final long serialVersionUID = 1L;
        private final String stateName;
        private final long idleAfterMs;
        private transient ValueState<byte[]> memory;

        Save(String stateName, long idleAfterMs) {
            this.stateName = stateName;
            this.idleAfterMs = idleAfterMs;
        }

        @Override
        public void open(OpenContext context) {
            memory = getRuntimeContext()
                    .getState(new ValueStateDescriptor<>(stateName, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
        }

        @Override
        public void processElement(Tuple2<String, byte[]> element, Context context) throws Exception {
            memory.update(element.f1);
            if (idleAfterMs > 0) {
                // As both plans do it: one timer a user, in the service that KeyedStateBootstrapOperator calls "user-timers".
                long logTimeMs = ByteBuffer.wrap(element.f1).order(ByteOrder.LITTLE_ENDIAN).getLong(LOG_TIME_OFFSET);
                context.timerService().registerEventTimeTimer(logTimeMs + idleAfterMs + 1);
            }
            if (USERS.incrementAndGet() % SAY_EVERY == 0) {
                say();
            }
        }
    }
}
