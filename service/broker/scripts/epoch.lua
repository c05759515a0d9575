-- Included before the other scripts: which epoch is a channel's log in?
--
-- The meta key holds "<epoch> <seq> <replid>": the log's last position, and the replication ID of
-- the engine that gave it out. That ID changes when an engine is promoted, or restarted: either may
-- have lost the last writes, after which numbers would be used twice. So a position is only
-- continued under the same ID; otherwise a new epoch begins. It is later than the old one and than
-- every entry that is left, also where this engine's clock is behind (XADD demands it).
--
-- Returns epoch, seq, replid (strings) and whether the epoch is new, not yet written.
local function current_epoch(meta_key, log_key)
  local info = redis.call('INFO', 'replication')
  local at = string.find(info, 'master_replid:', 1, true)
  local replid = string.sub(info, at + 14, at + 53)
  local meta = redis.call('GET', meta_key)
  local least = 0
  if meta then
    local epoch, seq, owner = string.match(meta, '^(%d+) (%d+) (%x+)$')
    if owner == replid then
      return epoch, seq, replid, false
    end
    least = tonumber(epoch or 0) + 1
  end
  local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  if last then
    least = math.max(least, tonumber(string.match(last[1], '^(%d+)')) + 1)
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return string.format('%.0f', math.max(now, least)), '0', replid, true
end
