package uic.flink;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32C;
import org.apache.flink.api.common.functions.FlatMapFunction;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.util.Collector;

/** Reads files of packed memories, block by block, as uic/warm/packed.py describes and writes them: (user, memory). */
final class SavepointMemoryFile implements FlatMapFunction<String, Tuple2<String, byte[]>> {

    private static final long serialVersionUID = 1L;
    private static final int MAGIC = ByteBuffer.wrap(new byte[] {0x55, 0x49, 0x43, 0x57}).order(ByteOrder.LITTLE_ENDIAN).getInt();
    private static final int FORMAT = 1;
    private static final int HEAD = 24;
    private static final int BUFFER = 1 << 20;

    @Override
    public void flatMap(String file, Collector<Tuple2<String, byte[]>> out) throws IOException {
        try (DataInputStream in = new DataInputStream(new BufferedInputStream(Files.newInputStream(Path.of(file)), BUFFER))) {
            ByteBuffer head = take(in, HEAD);
            int magic = head.getInt();
            int format = head.getShort();
            if (magic != MAGIC || format != FORMAT) {
                throw new IOException("expected memories of format " + FORMAT + ", found magic " + magic + ", format " + format);
            }
            int size = head.getInt(16);
            long users = 0;
            while (true) {
                CRC32C crc = new CRC32C();
                int count = checked(in, 4, crc).getInt();
                if (count == 0) {
                    long expected = checked(in, 8, crc).getLong();
                    check(in, crc);
                    if (users != expected) {
                        throw new IOException("expected " + expected + " users, read " + users);
                    }
                    return;
                }
                block(in, count, size, crc, out);
                users += count;
            }
        } catch (IOException | IllegalArgumentException error) {
            throw new IOException(file + ": " + error.getMessage(), error);
        }
    }

    private static void block(DataInputStream in, int count, int size, CRC32C crc, Collector<Tuple2<String, byte[]>> out)
            throws IOException {
        int textBytes = checked(in, 4, crc).getInt();
        ByteBuffer lengths = checked(in, 2 * count, crc);
        byte[] text = checked(in, textBytes, crc).array();
        ByteBuffer memories = checked(in, Math.multiplyExact(count, size), crc);
        check(in, crc);
        int at = 0;
        for (int user = 0; user < count; user++) {
            int length = Short.toUnsignedInt(lengths.getShort());
            byte[] memory = new byte[size];
            memories.get(memory);
            out.collect(Tuple2.of(new String(text, at, length, StandardCharsets.UTF_8), memory));
            at += length;
        }
    }

    private static ByteBuffer checked(DataInputStream in, int size, CRC32C crc) throws IOException {
        ByteBuffer taken = take(in, size);
        crc.update(taken.array());
        return taken;
    }

    private static void check(DataInputStream in, CRC32C crc) throws IOException {
        if (Integer.toUnsignedLong(take(in, 4).getInt()) != crc.getValue()) {
            throw new IOException("a CRC-32C does not match: its bytes changed after they were written");
        }
    }

    private static ByteBuffer take(DataInputStream in, int size) throws IOException {
        byte[] bytes = new byte[size];
        try {
            in.readFully(bytes);
        } catch (EOFException error) {
            throw new IOException("cut off", error);
        }
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }
}
