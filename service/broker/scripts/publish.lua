-- Store one event in one channel's log and publish it, in one atomic step and one slot.
--
-- KEYS  1 meta, 2 log, 3 the idempotency key (only where the publisher gave an id)
-- ARGV  1 fragment: the event's JSON after its id
--       2 the live channel (sharded pub/sub)
--       3 most events to keep
--       4 the log's time to live, 5 the meta key's (ms, from the last event on)
--       6 when it was accepted, Unix microseconds, passed on to the subscribers
--       7 the event's own time to live in ms, or ''
--       8 fingerprint of the payload, 9 how long an id holds (ms)
--       10 anything where replicas are waited for: a known id is written again, as it is, so that
--          their confirmation is one of the event as well
-- Reply {'stored' | 'duplicate' | 'conflict', position}
local idempotent = KEYS[3]
if idempotent then
  local known = redis.call('GET', idempotent)
  if known then
    local fingerprint, position = string.match(known, '^(%S+) (%S+)$')
    if fingerprint == ARGV[8] then
      if ARGV[10] then
        redis.call('SET', idempotent, known, 'KEEPTTL')
      end
      return {'duplicate', position}
    end
    return {'conflict', position}
  end
end

local epoch, seq, replid = current_epoch(KEYS[1], KEYS[2])
seq = string.format('%.0f', seq + 1)
local position = epoch .. '-' .. seq
if ARGV[7] == '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], position, 'e', ARGV[1])
else
  local time = redis.call('TIME')
  local expires = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[7]
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], position, 'e', ARGV[1],
    'x', string.format('%.0f', expires))
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('SET', KEYS[1], epoch .. ' ' .. seq .. ' ' .. replid, 'PX', ARGV[5])
if idempotent then
  redis.call('SET', idempotent, ARGV[8] .. ' ' .. position, 'PX', ARGV[9])
end
redis.call('SPUBLISH', ARGV[2], position .. ' ' .. ARGV[6] .. ' ' .. ARGV[1])
return {'stored', position}
