"""Scripts, which a Redis server runs atomically."""

from __future__ import annotations

# A key of another type was written by another program. What is derived from the records is rebuilt;
# what is not must not break other sessions.
_TYPES = """
local function is(kind, key) return redis.call('TYPE', key).ok == kind end
local function free(kind, key)
    local found = redis.call('TYPE', key).ok
    if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end
local function foreign(kind, key)
    local found = redis.call('TYPE', key).ok
    return found ~= kind and found ~= 'none'
end
local function natives_of(text)
    local fine, found = pcall(cjson.decode, text or '[]')
    if not fine or type(found) ~= 'table' then return {} end
    local pairs = {}
    for _, native in ipairs(found) do
        if type(native) == 'table' and type(native[1]) == 'string' and type(native[2]) == 'string' then
            pairs[#pairs + 1] = native
        end
    end
    return pairs
end
"""

# Change a session, if it is still the one that was read. `writes` holds the last writes of the
# session, so that one whose answer was lost with the connection can be sent again.
#
# keys: session, said, writes, turn, used, ids
# args: 1 id, 2 member of ids, 3 version that was read ("" for a new session), 4 record, 5 score,
#       6 natives as JSON, 7 this write, 8 token of the turn (or ""), 9 "rewrite" or "",
#       10 prefix of the keys of natives, 11… messages
_COMMIT = """
local function commit(keys, args)
    local session, said, writes, turn, used, ids = unpack(keys)
    if foreign('zset', used) then return 'foreign ' .. used end
    if foreign('zset', ids) then return 'foreign ' .. ids end
    if foreign('hash', session) then return args[3] == '' and 'taken' or 'foreign ' .. session end
    if args[9] == '' and args[3] ~= '' and foreign('list', said) then return 'foreign ' .. said end
    free('list', writes)
    for _, write in ipairs(redis.call('LRANGE', writes, 0, -1)) do
        if write == args[7] then return 'done' end
    end
    local known = redis.call('HMGET', session, 'version', 'natives')
    if args[3] == '' then
        local folded = string.match(args[2], '^%Z*')
        local same = redis.call('ZRANGEBYLEX', ids, '[' .. folded .. '\\0', '(' .. folded .. '\\1')
        if known[1] or #same > 0 then return 'taken' end
    elseif not known[1] then return 'missing'
    elseif known[1] ~= args[3] then return 'stale' end
    if args[8] ~= '' then
        if not is('hash', turn) or redis.call('HGET', turn, 'token') ~= args[8] then return 'lost' end
    end

    local old = known[2] or '[]'
    if old ~= args[6] then
        for _, native in ipairs(natives_of(old)) do
            if is('set', args[10] .. native[1]) then
                redis.call('SREM', args[10] .. native[1], native[2])
            end
        end
        for _, native in ipairs(natives_of(args[6])) do
            free('set', args[10] .. native[1])
            redis.call('SADD', args[10] .. native[1], native[2])
        end
    end
    redis.call('HSET', session, 'record', args[4], 'natives', args[6])
    redis.call('HINCRBY', session, 'version', 1)
    redis.call('ZADD', used, args[5], args[1])
    redis.call('ZADD', ids, 0, args[2])
    if args[9] ~= '' or args[3] == '' then redis.call('DEL', said) end
    for i = 11, #args do redis.call('RPUSH', said, args[i]) end
    redis.call('LPUSH', writes, args[7])
    redis.call('LTRIM', writes, 0, 31)
    return 'done'
end
local function rest_of(values, first)
    local rest = {}
    for i = first, #values do rest[#rest + 1] = values[i] end
    return rest
end
"""

# KEYS, ARGV: as of `commit`
COMMIT = _TYPES + _COMMIT + "return commit(KEYS, ARGV)"

# Create a session, and take its first turn. The lease of a deleted session of the same id may still
# be there; its turn is then "running".
#
# KEYS: those of `commit`, lease, turns
# ARGV: 1 token, 2 milliseconds, 3 facts about the taker, 4 the note of the turn, 5… those of `commit`
BEGIN = (
    _TYPES
    + _COMMIT
    + """
local args, turn, lease, turns = rest_of(ARGV, 5), KEYS[4], KEYS[7], KEYS[8]
local holder = is('string', lease) and redis.call('GET', lease)
if holder and holder ~= ARGV[1] then
    return redis.call('EXISTS', KEYS[1]) == 1 and 'taken' or 'running'
end
local answer = commit(KEYS, args)
if answer ~= 'done' then return answer end
redis.call('DEL', lease, turn)
free('set', turns)
redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
redis.call('HSET', turn, 'token', ARGV[1], 'holder', ARGV[3], 'facts', ARGV[4])
redis.call('SADD', turns, args[1])
return 'done'
"""
)

# Change a session, and end its turn, of which this is the last write.
#
# KEYS: those of `commit`, lease, turns. ARGV: those of `commit`
COMPLETE = (
    _TYPES
    + _COMMIT
    + """
local answer = commit(KEYS, ARGV)
local turn, lease, turns = KEYS[4], KEYS[7], KEYS[8]
if answer == 'done' and is('hash', turn) and redis.call('HGET', turn, 'token') == ARGV[8] then
    redis.call('DEL', lease, turn)
    redis.call('SREM', turns, ARGV[1])
end
return answer
"""
)

# Delete a session, unless another process is running or has changed it, or a killed turn may have
# left something running. All of its commands are allowed on a server whose memory is full.
#
# KEYS: session, said, writes, turn, used, ids, lease, turns
# ARGV: 1 id, 2 member of ids, 3 version (or "" for any), 4 a token whose holder is dead (or ""),
#       5 prefix of the keys of natives
DELETE = (
    _TYPES
    + """
local session, said, writes, turn, used, ids, lease, turns = unpack(KEYS)
if redis.call('EXISTS', session) == 0 then return 'missing' end
local holder = is('string', lease) and redis.call('GET', lease)
if holder and holder ~= ARGV[4] then return 'running' end
local facts = is('hash', turn) and redis.call('HGET', turn, 'facts')
if facts and facts ~= '' then return 'left' end
if is('hash', session) then
    if ARGV[3] ~= '' and redis.call('HGET', session, 'version') ~= ARGV[3] then return 'stale' end
    for _, native in ipairs(natives_of(redis.call('HGET', session, 'natives'))) do
        if is('set', ARGV[5] .. native[1]) then
            redis.call('SREM', ARGV[5] .. native[1], native[2])
        end
    end
end
redis.call('DEL', session, said, writes, turn, lease)
if is('zset', used) then redis.call('ZREM', used, ARGV[1]) end
if is('zset', ids) then redis.call('ZREM', ids, ARGV[2]) end
if is('set', turns) then redis.call('SREM', turns, ARGV[1]) end
return 'done'
"""
)

# Take the turn of a session; returns the note of the previous turn if that was killed, or false if
# another process holds it. A server whose memory is full allows writes after a first one that needs
# none: so a turn can be taken there, to stop what a killed one left and to delete its session.
#
# KEYS: lease, turn, turns
# ARGV: 1 token, 2 milliseconds, 3 facts about the taker, 4 a token whose holder is dead (or ""),
#       5 id
TAKE = (
    _TYPES
    + """
local lease, turn, turns = unpack(KEYS)
local holder = is('string', lease) and redis.call('GET', lease)
if holder and holder ~= ARGV[4] and holder ~= ARGV[1] then return false end
redis.call('DEL', lease)
free('hash', turn)
free('set', turns)
redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
redis.call('HSET', turn, 'token', ARGV[1], 'holder', ARGV[3])
redis.call('SADD', turns, ARGV[5])
return redis.call('HGET', turn, 'facts') or ''
"""
)

# Extend the turn. An expired lease is renewed if no other process took the turn since: the token
# identifies the last one that did. As with TAKE, a server whose memory is full allows it.
#
# KEYS: lease, turn. ARGV: 1 token, 2 milliseconds
RENEW = """
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 'lost' end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 'done'
"""

# As with TAKE, a server whose memory is full allows it.
#
# KEYS: turn. ARGV: 1 token, 2 facts
NOTE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'lost' end
redis.call('HDEL', KEYS[1], 'facts')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'facts', ARGV[2]) end
return 'done'
"""

# End a turn and delete its note, unless the note is left for the next one.
#
# KEYS: lease, turn, turns. ARGV: 1 token, 2 "leave" or "", 3 id
END = """
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 'lost' end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[3], ARGV[3])
if ARGV[2] == '' then redis.call('DEL', KEYS[2]) end
return 'done'
"""
