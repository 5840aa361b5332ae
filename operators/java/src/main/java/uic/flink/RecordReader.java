package uic.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.typeutils.RowTypeInfo;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * Records of the events topic to ROW(user id, wire bytes), operators/wire.py.
 *
 * <p>A record without a usable key cannot be given to any user: it becomes ROW(null, outgoing dead letter), before keying.
 */
public final class RecordReader implements KafkaRecordDeserializationSchema<Row> {
    private static final long serialVersionUID = 1L;
    private static final int MOST_KEY_BYTES = 128; // uic/event.py
    private static final int HEAD_BYTES = 19;

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Row> out) {
        byte[] key = record.key();
        String source = record.topic() + "-" + record.partition();
        String user = key == null || key.length == 0 || key.length > MOST_KEY_BYTES ? null : text(key);
        if (user == null) {
            String got = key == null ? "none" : key.length + " bytes";
            out.collect(
                    Row.of(
                            null,
                            Outgoing.dead(
                                    key,
                                    record.value(),
                                    "reason",
                                    "bad_key",
                                    "detail",
                                    "key: expected a user id of 1 to " + MOST_KEY_BYTES + " UTF-8 bytes, got " + got,
                                    "source",
                                    source,
                                    "offset",
                                    Long.toString(record.offset()),
                                    "log_time_ms",
                                    Long.toString(record.timestamp()))));
            return;
        }
        byte[] place = source.getBytes(StandardCharsets.UTF_8);
        byte[] payload = record.value() == null ? new byte[0] : record.value();
        ByteBuffer wire =
                ByteBuffer.allocate(HEAD_BYTES + place.length + payload.length).order(ByteOrder.LITTLE_ENDIAN);
        wire.putLong(record.offset()).putLong(record.timestamp());
        wire.put((byte) (record.headers().lastHeader("accept-late") == null ? 0 : 1));
        wire.putShort((short) place.length).put(place).put(payload);
        out.collect(Row.of(user, wire.array()));
    }

    private static String text(byte[] key) {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(key)).toString();
        } catch (CharacterCodingException error) {
            return null;
        }
    }

    @Override
    public TypeInformation<Row> getProducedType() {
        return new RowTypeInfo(Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
    }
}
