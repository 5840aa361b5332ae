package uic.flink;

import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.types.Row;

/** The second field of a row: the dead letter that RecordReader made of a record without a usable key. */
public final class OutgoingField implements MapFunction<Row, byte[]> {
    private static final long serialVersionUID = 1L;

    @Override
    public byte[] map(Row row) {
        return (byte[]) row.getField(1);
    }
}
