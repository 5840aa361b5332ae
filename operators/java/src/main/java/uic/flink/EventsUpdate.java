package uic.flink;

import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;

/** The update operator with events alone: its bundle is the one it was started with. */
public final class EventsUpdate extends BatchedUpdate implements OneInputStreamOperator<Row, Row>, BoundedOneInput {

    private static final long serialVersionUID = 1L;

    public EventsUpdate(
            String python,
            String[] shipped,
            String settings,
            String stateName,
            int capacity,
            long waitMs,
            long idleAfterMs,
            long silentBeforeMs,
            boolean publishes) {
        super(python, shipped, settings, stateName, capacity, waitMs, idleAfterMs, silentBeforeMs, publishes);
    }

    @Override
    public void processElement(StreamRecord<Row> element) throws Exception {
        add(element);
    }

    @Override
    public void endInput() throws Exception {
        flush();
    }
}
