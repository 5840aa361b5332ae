"""What Redis does by itself, in one script: every operation on one user is atomic, in a cluster too.

All four keys have the hash tag of the user's bucket, so that they are in one slot:

    KEYS[1]  the bucket's lineage, JSON (uic/store/lineage.py)
    KEYS[2]  the latest memory, a string
    KEYS[3]  the daily copies, a hash: generation (4, BE), ends in ms (8, BE) -> memory; empty: the user had left by then
    KEYS[4]  kept memories, a hash: sequence (8, BE) -> memory

    ARGV[1]  the operation        ARGV[2]  the lineage that the caller goes by, as JSON

The operations, and what they answer where the lineage is another one: {"lineage", the one there is}; it is missing where Redis
has lost it.

    write    ARGV[3] a memory, ARGV[4] its day, from and to in ms: two signed 64-bit, LE. The common case alone is decided here:
             the latest is of the same day and its generation is no later, or there is nothing at all of the user. {"taken"},
             {"stale"}, or what `look` answers: then uic/store/writing.py decides
    look     {"look", token, latest, copies}: a token of all that is stored, and the headers (56 bytes) of the memories
    commit   ARGV[3] the token, empty for none, ARGV[4] what becomes of the latest: "" nothing, "D" it goes, "P" and a memory;
             ARGV[5] "F" where nothing may stay of the user before that; then, two by two, fields of copies and "D", "P" and a
             memory, or "M": the latest there was. {"made"}; where the token is another one by now, what `look` answers
    read     ARGV[3] the generation that is written, "" where none was begun. {"read", latest}; where the latest is of another
             generation, or the lineage is another one: {"all", lineage, latest, copies} in full
    swap     of KEYS[1] alone: ARGV[3] in the place of ARGV[2], which is "" for nothing. {"made"} or {"was", the one there is}

Numbers of 64 bits are compared in halves, since those of Lua are doubles; texts are never compared by size, since Redis does
that by the machine's language.
"""

from hashlib import sha1

SCRIPT = r"""
local op, known = ARGV[1], ARGV[2]
local lineage = redis.call('GET', KEYS[1])

local function version(blob)
    return struct.unpack('<I4xxxxI4I4xxxxxxxxI4i4', blob, 25)
end

local function is_memory(blob)
    local start = string.sub(blob, 1, 6)
    return #blob >= 56 and (start == 'UICM\1\0' or start == 'UICM\2\0')
end

local function before(low, high, other_low, other_high)
    return high < other_high or (high == other_high and low < other_low)
end

local function look()
    local latest = redis.call('GET', KEYS[2]) or ''
    local copies = redis.call('HGETALL', KEYS[3])
    local all = {}
    for at = 1, #copies, 2 do
        local blob = copies[at + 1]
        all[#all + 1] = copies[at] .. string.sub(blob, 1, 56) .. string.sub(blob, -4)
        copies[at + 1] = string.sub(blob, 1, 56)
    end
    table.sort(all)
    local token = redis.sha1hex(string.sub(latest, 1, 56) .. string.sub(latest, -4) .. table.concat(all))
    return {'look', token, string.sub(latest, 1, 56), copies}
end

if op == 'swap' then
    if (lineage or '') ~= known then return {'was', lineage} end
    redis.call('SET', KEYS[1], ARGV[3])
    return {'made'}
end

if op == 'read' then
    local latest = redis.call('GET', KEYS[2]) or ''
    if lineage == known then
        if ARGV[3] == '' or latest == '' and redis.call('EXISTS', KEYS[3]) == 0 then return {'read', latest} end
        if is_memory(latest) and struct.unpack('<I4', latest, 25) == tonumber(ARGV[3]) then return {'read', latest} end
    end
    return {'all', lineage or '', latest, redis.call('HGETALL', KEYS[3])}
end

if lineage ~= known then return {'lineage', lineage} end

if op == 'look' then return look() end

if op == 'write' then
    local old, new = redis.call('GET', KEYS[2]), ARGV[3]
    if not old then
        if redis.call('EXISTS', KEYS[3]) == 1 then return look() end
        redis.call('SET', KEYS[2], new)
        return {'taken'}
    end
    if not is_memory(old) then return look() end
    local generation, low, high, log_low, log_high = version(old)
    local new_generation, new_low, new_high, new_log_low, new_log_high = version(new)
    local from_low, from_high, to_low, to_high = struct.unpack('<I4i4I4i4', ARGV[4])
    if before(log_low, log_high, from_low, from_high) or not before(log_low, log_high, to_low, to_high)
        or generation > new_generation then return look() end
    if generation == new_generation and before(new_low, new_high, low, high)
        and not before(log_low, log_high, new_log_low, new_log_high) then return {'stale'} end
    redis.call('SET', KEYS[2], new)
    return {'taken'}
end

if op == 'commit' then
    if ARGV[3] ~= '' then
        local seen = look()
        if seen[2] ~= ARGV[3] then return seen end
    end
    local latest = redis.call('GET', KEYS[2])
    if ARGV[5] == 'F' then redis.call('DEL', KEYS[2], KEYS[3], KEYS[4]) end
    for at = 6, #ARGV, 2 do
        local what = string.sub(ARGV[at + 1], 1, 1)
        if what == 'D' then
            redis.call('HDEL', KEYS[3], ARGV[at])
        else
            redis.call('HSET', KEYS[3], ARGV[at], what == 'M' and latest or string.sub(ARGV[at + 1], 2))
        end
    end
    local what = string.sub(ARGV[4], 1, 1)
    if what == 'D' then redis.call('DEL', KEYS[2]) end
    if what == 'P' then redis.call('SET', KEYS[2], string.sub(ARGV[4], 2)) end
    return {'made'}
end

return redis.error_reply('unknown operation ' .. op)
"""
SHA = sha1(SCRIPT.encode()).hexdigest()
