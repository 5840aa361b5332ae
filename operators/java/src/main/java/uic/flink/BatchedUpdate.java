package uic.flink;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.flink.api.common.TaskInfo;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
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

    private static final long serialVersionUID = 2L;
    private static final int SWEPT_AT_ONCE = 10_000;
    private static final int LOG_TIME_OFFSET = 48; // in a blob, uic/codec.py
    private static final long NO_TIME = PythonUpdates.NO_TIME;

    private final UpdateSettings settings;

    private transient ValueState<byte[]> memory;
    private transient InternalTimerService<VoidNamespace> timers;
    private transient KeyedStateBackend<Row> backend;
    private transient int maxParallelism;
    private transient PythonUpdates updates;
    private transient Batch batch;
    private transient long flushAt;

    protected BatchedUpdate(UpdateSettings settings) {
        this.settings = settings;
    }

    @Override
    public void open() throws Exception {
        super.open();
        memory = getRuntimeContext()
                .getState(new ValueStateDescriptor<>(
                        settings.stateName(), PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
        // PyFlink's keyed operators always have a service of this name; a savepoint of one plan restores into the other.
        timers = getInternalTimerService("user-timers", VoidNamespaceSerializer.INSTANCE, this);
        backend = getKeyedStateBackend();
        maxParallelism = getRuntimeContext().getTaskInfo().getMaxNumberOfParallelSubtasks();
        batch = new Batch(settings.capacity(), maxParallelism);
        flushAt = Long.MAX_VALUE;
        updates = new PythonUpdates(settings, getRuntimeContext(), saved(), this);
        if (updates.mustSweep()) {
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
        batch.add((String) row.getField(0), (byte[]) row.getField(1));
        if (batch.isFull()) {
            flush();
        } else if (batch.events() == 1) {
            long at = getProcessingTimeService().getCurrentProcessingTime() + settings.waitMs();
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
        if (updates != null) {
            updates.close();
            updates = null;
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
        PythonUpdates.Heeded heeded = updates.control(message);
        if (heeded.forgotten() != null) {
            forget(heeded.forgotten());
        }
        return heeded.kept();
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
        byte[] record = updates.forget(blob == null ? NO_TIME : logTimeMs(blob));
        if (record.length > 0) {
            memory.clear();
            output.collect(new StreamRecord<>(Row.of(record, null)));
        }
    }

    /** Memories that came with an older checkpoint and are of those who were forgotten since: once, before the first event. */
    private void sweep() throws Exception {
        List<Row> found;
        try (Stream<Row> users = backend.getKeys(settings.stateName(), VoidNamespace.INSTANCE)) {
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
            ByteBuffer untils = updates.forgottenUntil(ids.toByteArray());
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
        if (batch.events() == 0) {
            return;
        }
        byte[][] blobs = new byte[batch.users()][];
        int shared = 0;
        for (int user = 0; user < blobs.length; user++) {
            backend.setCurrentKeyAndKeyGroup(batch.key(user), batch.keyGroup(user));
            blobs[user] = memory.value();
            if (blobs[user] != null && blobs[user].length == updates.blobSize()) {
                updates.share(shared++, blobs[user]);
            }
        }
        take(updates.apply(batch.request(blobs, updates.blobSize())), blobs);
        batch.clear();
        flushAt = Long.MAX_VALUE;
    }

    /**
     * Little-endian: changed users C, outgoing records R (4 bytes each); C places of users, R lengths (4 each); R outgoing
     * records. The C new blobs lie in the memory that both languages see, side by side.
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
            byte[] blob = before[user] == null ? new byte[updates.blobSize()] : before[user];
            updates.take(i, blob);
            backend.setCurrentKeyAndKeyGroup(batch.key(user), batch.keyGroup(user));
            memory.update(blob);
            if (settings.idleAfterMs() > 0 && before[user] == null) {
                timers.registerEventTimeTimer(VoidNamespace.INSTANCE, leavesAt(blob));
            }
            if (logTimeMs(blob) < settings.silentBeforeMs()) {
                timers.registerEventTimeTimer(VoidNamespace.INSTANCE, settings.silentBeforeMs() - 1);
            } else if (settings.publishes()) {
                output.collect(new StreamRecord<>(Outgoing.snapshot(batch.userId(user), blob)));
            }
        }
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
        if (timer.getTimestamp() == settings.silentBeforeMs() - 1 && logTimeMs(blob) < settings.silentBeforeMs()) {
            output.collect(new StreamRecord<>(Outgoing.snapshot(user, blob)));
            return;
        }
        if (settings.idleAfterMs() <= 0) {
            return;
        }
        if (leavesAt(blob) > timer.getTimestamp()) {
            timers.registerEventTimeTimer(VoidNamespace.INSTANCE, leavesAt(blob));
            return;
        }
        memory.clear();
        output.collect(new StreamRecord<>(Outgoing.departure(user, updates.generation())));
    }

    @Override
    public void onProcessingTime(InternalTimer<Row, VoidNamespace> timer) {
        // None is ever registered here; one of PyFlink's may come with a savepoint.
    }

    private long leavesAt(byte[] blob) {
        return logTimeMs(blob) + settings.idleAfterMs() + 1;
    }

    private static long logTimeMs(byte[] blob) {
        return ByteBuffer.wrap(blob).order(ByteOrder.LITTLE_ENDIAN).getLong(LOG_TIME_OFFSET);
    }
}
