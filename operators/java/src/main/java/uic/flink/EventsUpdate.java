package uic.flink;

import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;

/** The update operator with events alone: its bundle is the one it was started with. */
public final class EventsUpdate extends BatchedUpdate implements OneInputStreamOperator<Row, Row>, BoundedOneInput {

    private static final long serialVersionUID = 2L;

    public EventsUpdate(UpdateSettings settings) {
        super(settings);
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
