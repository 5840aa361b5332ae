package uic.flink;

import org.apache.flink.api.common.state.BroadcastState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.streaming.api.operators.BoundedMultiInput;
import org.apache.flink.streaming.api.operators.TwoInputStreamOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;

/**
 * The update operator with events and a broadcast control stream (operators/control.py).
 *
 * <p>A control message is heeded between two batches; what Python wants kept of it is broadcast state. It is given back when the
 * operator opens, so after a failure events are applied with the model that was active in the checkpoint.
 */
public final class ControlledUpdate extends BatchedUpdate
        implements TwoInputStreamOperator<Row, byte[], Row>, BoundedMultiInput {

    private static final long serialVersionUID = 2L;
    private static final String PROMOTE = "promote";
    private static final byte[] NOTHING = new byte[0];

    private final String controlName;

    private transient BroadcastState<String, byte[]> heeded;

    /** @param controlName of the broadcast state, operators/contract.py */
    public ControlledUpdate(String controlName, UpdateSettings settings) {
        super(settings);
        this.controlName = controlName;
    }

    @Override
    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        heeded = context.getOperatorStateStore()
                .getBroadcastState(new MapStateDescriptor<>(
                        controlName, Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
    }

    @Override
    protected byte[] saved() throws Exception {
        byte[] promoted = heeded.get(PROMOTE);
        return promoted == null ? NOTHING : promoted;
    }

    @Override
    public boolean hasKeyContext2() {
        return false;
    }

    @Override
    public void processElement1(StreamRecord<Row> element) throws Exception {
        add(element);
    }

    @Override
    public void processElement2(StreamRecord<byte[]> element) throws Exception {
        byte[] kept = control(element.getValue());
        if (kept.length > 0) {
            heeded.put(PROMOTE, kept);
        }
    }

    /** The log's clock is that of the events: a control topic without messages must not hold it back. */
    @Override
    public void processWatermark1(Watermark mark) throws Exception {
        processWatermark(mark);
    }

    @Override
    public void processWatermark2(Watermark mark) {
        // See above.
    }

    @Override
    public void endInput(int input) throws Exception {
        flush();
    }
}
