package uic.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.apache.flink.types.Row;

/**
 * What leaves the update operator, as bytes, the same from both plans (operators/outgoing.py).
 *
 * <p>Little-endian: kind (1 byte: 0 snapshot, 1 late, 2 dead), length of the key (4; -1: none), key, length of the value (4; -1:
 * none), value, number of headers (1); each header: length of its name (1), name, length of its value (4), value.
 */
final class Outgoing {
    static final byte SNAPSHOT = 0;
    static final byte LATE = 1;
    static final byte DEAD = 2;

    private static final byte[] GENERATION = "generation".getBytes(StandardCharsets.UTF_8);

    private Outgoing() {}

    /**
     * A published memory. ROW(record, value): the value of the record is beside it rather than in it,
     * since memories are large and would be copied twice.
     */
    static Row snapshot(byte[] userId, byte[] blob) {
        byte[] bytes = new byte[10 + userId.length];
        ByteBuffer out = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        out.put(SNAPSHOT);
        put(out, userId);
        put(out, null);
        out.put((byte) 0);
        return Row.of(bytes, blob);
    }

    /** The user left, says a job of this generation: a memory carries its own, where there is none a header does. */
    static Row departure(byte[] userId, int generation) {
        byte[] text = Integer.toString(generation).getBytes(StandardCharsets.UTF_8);
        byte[] bytes = new byte[15 + userId.length + GENERATION.length + text.length];
        ByteBuffer out = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        out.put(SNAPSHOT);
        put(out, userId);
        put(out, null);
        out.put((byte) 1).put((byte) GENERATION.length).put(GENERATION);
        put(out, text);
        return Row.of(bytes, null);
    }

    /** A dead letter; headers are pairs of name and value. */
    static byte[] dead(byte[] key, byte[] value, String... headers) {
        byte[][] texts = new byte[headers.length][];
        int size = 10 + (key == null ? 0 : key.length) + (value == null ? 0 : value.length);
        for (int i = 0; i < headers.length; i++) {
            texts[i] = headers[i].getBytes(StandardCharsets.UTF_8);
            size += texts[i].length + (i % 2 == 0 ? 1 : 4);
        }
        byte[] bytes = new byte[size];
        ByteBuffer out = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        out.put(DEAD);
        put(out, key);
        put(out, value);
        out.put((byte) (headers.length / 2));
        for (int i = 0; i < headers.length; i += 2) {
            out.put((byte) texts[i].length).put(texts[i]);
            put(out, texts[i + 1]);
        }
        return bytes;
    }

    private static void put(ByteBuffer out, byte[] bytes) {
        if (bytes == null) {
            out.putInt(-1);
        } else {
            out.putInt(bytes.length).put(bytes);
        }
    }
}
