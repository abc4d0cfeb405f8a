"""Scripts, which the Redis server runs atomically. Only its clock counts.

The hash of an attempt has a `state`: queued, running, ended, lost (its lease expired), or withdrawn
(cancelled before it was started). The last three are final. The worker that runs it has an
`owner`, a unique text that each of its writes names, so a worker whose lease has expired can change
nothing. Each script can be sent again if its answer was lost.
"""

from __future__ import annotations

_BASE = """
local function now()
    local t = redis.call('TIME')
    return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function lose(attempt, leases, news, member, kind)
    redis.call('HSET', attempt, 'state', 'lost')
    redis.call('HDEL', attempt, 'payload')
    redis.call('ZREM', leases, member)
    redis.call('XADD', news, '*', 'a', member, 'k', kind or 'lost', 'd', redis.call('HGET', attempt, 'node') or '')
end
"""

# Put an attempt into the ledger; "new", the state that it has already, "busy" while an earlier
# attempt at the task may be running, or "stale" if there was a later one.
#
# KEYS: run, task, attempt, leases, news
# ARGV: 1 number, 2 member, 3 payload, 4 protocol, 5 version, 6 grace (ms), 7 how long to keep it (ms),
#       8 prefix of attempts, 9 position of the task, 10 "first" if the run may not be known yet, or ""
SUBMIT = (
    _BASE
    + """
local run, task, attempt, leases, news = unpack(KEYS)
local number, before = tonumber(ARGV[1]), tonumber(redis.call('GET', task) or '0')
if before > number then return 'stale' end
if before == number then
    local state = redis.call('HGET', attempt, 'state')
    if state ~= 'withdrawn' then return state or 'stale' end  -- that one was never started
    redis.call('DEL', attempt)
elseif before > 0 then
    local member = ARGV[9] .. '.' .. before
    local old = ARGV[8] .. member
    local state = redis.call('HGET', old, 'state')
    if state == 'running' then
        if tonumber(redis.call('HGET', old, 'lease')) + tonumber(ARGV[6]) > now() then return 'busy' end
        lose(old, leases, news, member)
    elseif state == 'queued' then
        redis.call('HSET', old, 'state', 'withdrawn')
        redis.call('HDEL', old, 'payload')
    end
end
if ARGV[10] ~= '' then redis.call('SET', run, '1', 'PX', ARGV[7]) end
redis.call('SET', task, ARGV[1], 'PX', ARGV[7])
redis.call('HSET', attempt, 'state', 'queued', 'payload', ARGV[3], 'protocol', ARGV[4], 'version', ARGV[5])
redis.call('PEXPIRE', attempt, ARGV[7])
return 'new'
"""
)

# Take an attempt: {"run", payload, whether there are rate limits}; or {why not, a detail}. It can be
# taken once; one that is not the newest at its task is not queued any more.
#
# KEYS: attempt, leases, news, busy, limits
# ARGV: 1 member, 2 owner, 3 node, 4 protocol, 5 lease (ms), 6 how long to keep the leases and news of
#       the run (ms), or "" if that was said, 7 name, 8 backend, as JSON
CLAIM = (
    _BASE
    + """
local attempt, leases, news, busy, limits = unpack(KEYS)
local known = redis.call('HMGET', attempt, 'state', 'payload', 'protocol', 'version', 'owner', 'first')
if not known[1] then return {'missing', ''} end
if known[1] == 'running' and known[5] == ARGV[2] then
    return {'run', known[2], redis.call('EXISTS', limits)}
end
if known[1] ~= 'queued' then return {known[1], ''} end
if known[3] ~= ARGV[4] then return {'version', known[4]} end
local at = now()
local lease = at + tonumber(ARGV[5])
local id = redis.call('XADD', news, '*', 'a', ARGV[1], 'k', 'claimed', 'd', ARGV[3])
redis.call('HSET', attempt, 'state', 'running', 'owner', ARGV[2], 'node', ARGV[3], 'lease', lease,
    'first', known[6] or id)
redis.call('HSET', busy, ARGV[7], string.format('{"backend":%s,"since":%.0f}', ARGV[8], at))
redis.call('ZADD', leases, lease, ARGV[1])
if ARGV[6] ~= '' then
    redis.call('PEXPIRE', leases, ARGV[6])
    redis.call('PEXPIRE', news, ARGV[6])
end
return {'run', known[2], redis.call('EXISTS', limits)}
"""
)

# Renew the lease and report events: {"ok", what was asked of it, why}; {"ended"} if its end is known,
# {"fenced"} if the attempt is not the owner's any more, {"missing"} if the server has lost it. Events that a lost answer was about
# are not added twice; the server may also have lost some that it had, if it was restarted.
#
# KEYS: attempt, leases, news
# ARGV: 1 member, 2 owner, 3 lease (ms), 4 number of events reported before these, 5 how long to keep the
#       leases (ms), 6… kind, data, …
BEAT = (
    _BASE
    + """
local attempt, leases, news = unpack(KEYS)
local known = redis.call('HMGET', attempt, 'state', 'owner', 'events', 'cancel', 'reason')
if not known[1] then return {'missing', '', ''} end
if known[2] == ARGV[2] and known[1] == 'ended' then return {'ended', '', ''} end
if known[1] ~= 'running' or known[2] ~= ARGV[2] then return {'fenced', '', ''} end
local lease = now() + tonumber(ARGV[3])
local count = (#ARGV - 5) / 2
local seen = math.max(0, tonumber(known[3] or '0') - tonumber(ARGV[4]))
for i = seen + 1, count do
    redis.call('XADD', news, '*', 'a', ARGV[1], 'k', ARGV[4 + 2 * i], 'd', ARGV[5 + 2 * i])
end
redis.call('HSET', attempt, 'lease', lease, 'events', tonumber(ARGV[4]) + count)
redis.call('ZADD', leases, lease, ARGV[1])
redis.call('PEXPIRE', leases, ARGV[5])
return {'ok', known[4] or '', known[5] or ''}
"""
)

# Record the end of an attempt, after its last events: "ok", "fenced" or "missing", as above.
#
# KEYS: attempt, leases, news, home, busy
# ARGV: 1 member, 2 owner, 3 result, 4 node ("" if it has no native session), 5 how long to keep it (ms),
#       6 name, 7 number of events reported before these, 8… kind, data, …
FINISH = """
local attempt, leases, news, home, busy = unpack(KEYS)
local known = redis.call('HMGET', attempt, 'state', 'owner', 'events')
redis.call('HDEL', busy, ARGV[6])
if not known[1] then return 'missing' end
if known[2] ~= ARGV[2] then return 'fenced' end
if known[1] == 'ended' then return 'ok' end
if known[1] ~= 'running' then return 'fenced' end
local seen = math.max(0, tonumber(known[3] or '0') - tonumber(ARGV[7]))
for i = seen + 1, (#ARGV - 7) / 2 do
    redis.call('XADD', news, '*', 'a', ARGV[1], 'k', ARGV[6 + 2 * i], 'd', ARGV[7 + 2 * i])
end
redis.call('HSET', attempt, 'state', 'ended', 'result', ARGV[3], 'payload', '')
redis.call('ZREM', leases, ARGV[1])
redis.call('XADD', news, '*', 'a', ARGV[1], 'k', 'ended', 'd', ARGV[3])
redis.call('PEXPIRE', attempt, ARGV[5])
if ARGV[4] ~= '' then redis.call('SET', home, ARGV[4], 'PX', ARGV[5]) end
return 'ok'
"""

# Give up an attempt whose Celery worker was killed, once nothing that it has started is left: "ok", "fenced"
# or "missing", as above.
#
# KEYS: attempt, leases, news, busy. ARGV: 1 member, 2 owner, 3 name
GIVE_UP = (
    _BASE
    + """
local attempt, leases, news, busy = unpack(KEYS)
local known = redis.call('HMGET', attempt, 'state', 'owner')
if not known[1] then return 'missing' end
if known[1] ~= 'running' or known[2] ~= ARGV[2] then return 'fenced' end
redis.call('HDEL', busy, ARGV[3])
lose(attempt, leases, news, ARGV[1], 'killed')
return 'ok'
"""
)

# Return an attempt that nothing was started for: another node may take it.
#
# KEYS: attempt, leases, news, busy. ARGV: 1 member, 2 owner, 3 node and reason, as JSON, 4 name
REFUSE = """
local attempt, leases, news, busy = unpack(KEYS)
local known = redis.call('HMGET', attempt, 'state', 'owner')
redis.call('HDEL', busy, ARGV[4])
if not known[1] then return 'missing' end
if known[1] ~= 'running' or known[2] ~= ARGV[2] then return 'fenced' end
redis.call('HSET', attempt, 'state', 'queued')
redis.call('HDEL', attempt, 'owner', 'lease', 'events')  -- the next owner counts its own events
redis.call('ZREM', leases, ARGV[1])
redis.call('XADD', news, '*', 'a', ARGV[1], 'k', 'refused', 'd', ARGV[3])
return 'ok'
"""

# Report that a node of another version cannot take an attempt.
#
# KEYS: attempt, news. ARGV: 1 member, 2 node and reason, as JSON
DECLINE = """
if redis.call('HGET', KEYS[1], 'state') == 'queued' then
    redis.call('XADD', KEYS[2], '*', 'a', ARGV[1], 'k', 'refused', 'd', ARGV[2])
end
return 'ok'
"""

# Cancel an attempt. It is withdrawn if nobody has taken it; the worker of a running one will see it, but
# for "unless taken". Returns its state then; "missing" if the server has lost it.
#
# KEYS: attempt. ARGV: 1 "cancel", "now" or "unless taken", 2 reason
CANCEL = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state == 'queued' then
    redis.call('HSET', KEYS[1], 'state', 'withdrawn')
    redis.call('HDEL', KEYS[1], 'payload')
    return 'withdrawn'
end
if state == 'running' and ARGV[1] ~= 'unless taken' and redis.call('HGET', KEYS[1], 'cancel') ~= 'now' then
    redis.call('HSET', KEYS[1], 'cancel', ARGV[1], 'reason', ARGV[2])
end
return state
"""

# Give up the attempts whose lease has expired; returns how many.
#
# KEYS: leases, news, run. ARGV: 1 grace (ms), 2 prefix of attempts, 3 how long to keep them (ms)
EXPIRE = (
    _BASE
    + """
local leases, news = unpack(KEYS)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[3]) end
local late = redis.call('ZRANGEBYSCORE', leases, '-inf', now() - tonumber(ARGV[1]), 'LIMIT', 0, 100)
for _, member in ipairs(late) do
    if redis.call('HGET', ARGV[2] .. member, 'state') == 'running' then
        lose(ARGV[2] .. member, leases, news, member)
    else
        redis.call('ZREM', leases, member)
    end
end
return #late
"""
)
