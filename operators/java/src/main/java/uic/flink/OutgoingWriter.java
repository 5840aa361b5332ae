package uic.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.types.Row;
import org.apache.kafka.clients.producer.ProducerRecord;

/** Outgoing records (Outgoing.java) into their topics, one for each kind: byte[], or ROW(byte[], value) with the value beside. */
public final class OutgoingWriter implements KafkaRecordSerializationSchema<Object> {
    private static final long serialVersionUID = 1L;
    private final String[] topics;

    /** Topics in the order of the kinds: snapshots, late events, dead letters. */
    public OutgoingWriter(String snapshots, String late, String dead) {
        topics = new String[] {snapshots, late, dead};
    }

    @Override
    public ProducerRecord<byte[], byte[]> serialize(Object element, KafkaSinkContext context, Long timestamp) {
        Row row = element instanceof Row ? (Row) element : null;
        byte[] bytes = (byte[]) (row == null ? element : row.getField(0));
        byte[] beside = row == null ? null : (byte[]) row.getField(1);
        ByteBuffer in = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        String topic = topics[in.get()];
        byte[] key = take(in, in.getInt());
        byte[] inside = take(in, in.getInt());
        byte[] value = beside == null ? inside : beside;
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, null, null, key, value);
        for (int left = in.get(); left > 0; left--) {
            String name = new String(take(in, in.get()), StandardCharsets.UTF_8);
            record.headers().add(name, take(in, in.getInt()));
        }
        return record;
    }

    private static byte[] take(ByteBuffer in, int length) {
        if (length < 0) {
            return null;
        }
        byte[] bytes = new byte[length];
        in.get(bytes);
        return bytes;
    }
}
