package uic.flink;

import org.apache.flink.api.common.functions.FilterFunction;
import org.apache.flink.types.Row;

/** Keeps the rows of RecordReader that have a usable key, or those that have none. */
public final class HasKey implements FilterFunction<Row> {
    private static final long serialVersionUID = 1L;
    private final boolean wanted;

    public HasKey(boolean wanted) {
        this.wanted = wanted;
    }

    @Override
    public boolean filter(Row row) {
        return (row.getField(0) != null) == wanted;
    }
}
