package uic.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.types.Row;

/** The events that go to Python in one call, and their users: each has a place, in the order of their first events. */
final class Batch {
    private final int maxParallelism;
    private final Map<String, Integer> places = new HashMap<>();
    private final List<Row> keys = new ArrayList<>();
    private final List<byte[]> userIds = new ArrayList<>();
    private final int[] keyGroups;
    private final int[] userOf;
    private final byte[][] events;
    private byte[] request = new byte[0];
    private int count;

    Batch(int capacity, int maxParallelism) {
        this.maxParallelism = maxParallelism;
        keyGroups = new int[capacity];
        userOf = new int[capacity];
        events = new byte[capacity][];
    }

    void add(String user, byte[] event) {
        Integer place = places.get(user);
        if (place == null) {
            place = keys.size();
            places.put(user, place);
            Row key = Row.of(user); // as KeyByKeySelector makes it
            keys.add(key);
            keyGroups[place] = KeyGroupRangeAssignment.assignToKeyGroup(key, maxParallelism);
            userIds.add(user.getBytes(StandardCharsets.UTF_8));
        }
        events[count] = event;
        userOf[count] = place;
        count++;
    }

    int events() {
        return count;
    }

    boolean isFull() {
        return count == events.length;
    }

    int users() {
        return keys.size();
    }

    Row key(int place) {
        return keys.get(place);
    }

    int keyGroup(int place) {
        return keyGroups[place];
    }

    byte[] userId(int place) {
        return userIds.get(place);
    }

    void clear() {
        places.clear();
        keys.clear();
        userIds.clear();
        count = 0;
    }

    /**
     * What Python is asked to apply, with each user's memory in `blobs`; events are handed over and no longer held.
     *
     * <p>Little-endian: users U, events E (4 bytes each); U lengths of user ids, U lengths of blobs (-1: none), E places of users, E
     * lengths of wires (4 each); then all user ids, the blobs of another length than `blobSize`, all wires. The other blobs lie in
     * the memory that both languages see, side by side. What comes after is of an earlier request.
     */
    byte[] request(byte[][] blobs, int blobSize) {
        int size = 8 + 8 * blobs.length + 8 * count;
        for (int user = 0; user < blobs.length; user++) {
            size += userIds.get(user).length + (isOther(blobs[user], blobSize) ? blobs[user].length : 0);
        }
        for (int event = 0; event < count; event++) {
            size += events[event].length;
        }
        if (request.length < size || request.length > 2 * size) {
            request = new byte[size + size / 8];
        }
        ByteBuffer out = ByteBuffer.wrap(request).order(ByteOrder.LITTLE_ENDIAN);
        out.putInt(blobs.length).putInt(count);
        for (byte[] userId : userIds) {
            out.putInt(userId.length);
        }
        for (byte[] blob : blobs) {
            out.putInt(blob == null ? -1 : blob.length);
        }
        for (int event = 0; event < count; event++) {
            out.putInt(userOf[event]);
        }
        for (int event = 0; event < count; event++) {
            out.putInt(events[event].length);
        }
        for (byte[] userId : userIds) {
            out.put(userId);
        }
        for (byte[] blob : blobs) {
            if (isOther(blob, blobSize)) {
                out.put(blob);
            }
        }
        for (int event = 0; event < count; event++) {
            out.put(events[event]);
            events[event] = null;
        }
        return request;
    }

    private static boolean isOther(byte[] blob, int blobSize) {
        return blob != null && blob.length != blobSize;
    }
}
