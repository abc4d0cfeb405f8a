"""What Redis does in one step. Its clock alone decides how long a process may drive a run.

Each script that writes for a driver compares its token first: who has lost the run writes nothing.
"""

from __future__ import annotations

# Milliseconds since 1970.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
_FENCED = "if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 'lost' end\n"
# A client that lost its connection before the answer repeats the call, with the same number.
_ONCE = """
if tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0) >= tonumber(ARGV[3]) then return 'done' end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""

# run, runs, due; id, plan, about, milliseconds until a driver is missed ('' without one)
CREATE = f"""{_NOW}
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'plan') == ARGV[2] and 'created' or 'taken'
end
redis.call('HSET', KEYS[1], 'plan', ARGV[2], 'about', ARGV[3], 'created', now, 'modified', now)
redis.call('ZADD', KEYS[2], now, ARGV[1])
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[1]) end
return 'created'
"""

# run, driver, due; token, milliseconds, id
LOCK = f"""{_NOW}
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local held = redis.call('HMGET', KEYS[2], 'token', 'until')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > now then return 'held' end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'until', now + ARGV[2], 'note', '', 'asked', 0)
redis.call('ZADD', KEYS[3], 'XX', now + ARGV[2], ARGV[3])
return 'locked'
"""

# run, driver, due; token, milliseconds, id. Returns how often the driver was asked to stop.
RENEW = f"""{_NOW}{_FENCED}
redis.call('HSET', KEYS[2], 'until', now + ARGV[2])
redis.call('HSET', KEYS[1], 'alive', now)
redis.call('ZADD', KEYS[3], 'XX', now + ARGV[2], ARGV[3])
return redis.call('HGET', KEYS[2], 'asked')
"""

# run, driver, due, journal; token, id. A run that has ended needs no other driver. One that was given
# back without any progress is tried again after 1 s, 2 s, 4 s and so on, at most a minute: what
# hinders a worker rarely changes at once, and the tries are counted.
RELEASE = f"""{_NOW}{_FENCED}
redis.call('DEL', KEYS[2])
local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
if last and string.find(string.sub(last[2][2], 1, 100), '"event":"end"', 1, true) then
  redis.call('ZREM', KEYS[3], ARGV[2])
else
  local tries = tonumber(redis.call('HGET', KEYS[1], 'restarts') or 0)
  local pause = tries > 0 and math.min(60000, 500 * 2 ^ tries) or 0
  redis.call('ZADD', KEYS[3], 'XX', now + pause, ARGV[2])
end
return 'released'
"""

# run, driver; token, note
NOTE = f"""{_FENCED}
redis.call('HSET', KEYS[2], 'note', ARGV[2])
return 'noted'
"""

# driver
DRIVER = f"""{_NOW}
local held = redis.call('HMGET', KEYS[1], 'until', 'note')
if held[1] and tonumber(held[1]) > now then return held[2] end
return false
"""

# driver; note
ASK = f"""{_NOW}
local held = redis.call('HMGET', KEYS[1], 'until', 'note')
if not held[1] or tonumber(held[1]) <= now or held[2] ~= ARGV[1] then return 0 end
return redis.call('HINCRBY', KEYS[1], 'asked', 1)
"""

# run, driver, journal; token, field, number, lines…
APPEND = f"""{_NOW}{_FENCED}{_ONCE}
for i = 4, #ARGV do redis.call('XADD', KEYS[3], '*', 'line', ARGV[i]) end
redis.call('HSET', KEYS[1], 'modified', now, 'restarts', 0)
return 'done'
"""

# run, driver, events, index; token, field, number, most bytes of all events, task, then a kind and a
# line for each event. For each task, the index has where its events begin and end, and where its
# results are, which are stored in any case.
EVENTS = f"""{_FENCED}{_ONCE}
local task, size = ARGV[5], tonumber(redis.call('HGET', KEYS[1], 'bytes') or 0)
for i = 6, #ARGV, 2 do
  if ARGV[i] ~= '' or size < tonumber(ARGV[4]) then
    local id = redis.call('XADD', KEYS[3], '*', 'task', task, 'line', ARGV[i + 1])
    redis.call('HSETNX', KEYS[4], task .. ':first', id)
    redis.call('HSET', KEYS[4], task .. ':last', id)
    if ARGV[i] ~= '' then redis.call('HSET', KEYS[4], task .. ':' .. ARGV[i], id) end
    if ARGV[i] == 'result' then redis.call('HINCRBY', KEYS[4], task .. ':results', 1) end
    size = size + #ARGV[i + 1]
  end
end
redis.call('HSET', KEYS[1], 'bytes', size)
return 'done'
"""

# run, driver, events, index; token, task, its last result ('' without one), whether its last turn is
# deleted ('1'), events to delete…
DROP = f"""{_FENCED}
local task = ARGV[2]
for i = 5, #ARGV do redis.call('XDEL', KEYS[3], ARGV[i]) end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[4], task .. ':last', ARGV[3])
else
  redis.call('HDEL', KEYS[4], task .. ':first', task .. ':last')
end
if ARGV[4] == '1' then redis.call('HDEL', KEYS[4], task .. ':turn') end
return 'done'
"""

# run, taken; lines… A line that is there already is not added again.
TAKE = f"""{_NOW}
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
for i, line in ipairs(ARGV) do redis.call('ZADD', KEYS[2], 'NX', now + (i - 1) / 1000, line) end
return 'done'
"""

# due; how many, milliseconds until the next try, most restarts; what run keys begin with. Returns
# the runs that need a driver now.
DUE = f"""{_NOW}
local found = {{}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local run = ARGV[4] .. id
  if redis.call('EXISTS', run) == 0 or redis.call('HINCRBY', run, 'restarts', 1) > tonumber(ARGV[3]) then
    redis.call('ZREM', KEYS[1], id)
  else
    redis.call('ZADD', KEYS[1], now + ARGV[2], id)
    found[#found + 1] = id
  end
end
return found
"""
