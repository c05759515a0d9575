-- Read a page of one channel's log, in one atomic step. A log that nobody wrote to gets its epoch
-- here, so that an empty channel has a position too.
--
-- KEYS  1 meta, 2 log
-- ARGV  1 the position after which to read, or '' for the tip alone
--       2 most events, 3 bytes after which the page ends
--       4 the meta key's time to live (ms)
-- Reply {tip, first retained or '', end of the page, position, fragment, position, fragment, …}
--       The page is complete where its end is the tip. Expired events are left out.
local epoch, seq, replid, new = current_epoch(KEYS[1], KEYS[2])
if new then
  redis.call('SET', KEYS[1], epoch .. ' 0 ' .. replid, 'PX', ARGV[4])
elseif redis.call('PTTL', KEYS[1]) < ARGV[4] / 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
local tip = epoch .. '-' .. seq
if ARGV[1] == '' or ARGV[1] == tip then
  return {tip, '', tip}
end

local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local page = {tip, first and first[1] or '', tip}
if ARGV[1] == '18446744073709551615-18446744073709551615' then
  return page -- nothing can follow the last ID that there is, and XRANGE refuses the question
end
local most, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
local now
local from = '(' .. ARGV[1]
local read = 0
while true do
  local entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', math.min(16, most - read))
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    local alive = true
    if fields[3] == 'x' then
      if not now then
        local time = redis.call('TIME')
        now = time[1] * 1000 + math.floor(time[2] / 1000)
      end
      alive = tonumber(fields[4]) > now
    end
    if alive then
      page[#page + 1] = entry[1]
      page[#page + 1] = fields[2]
      budget = budget - #fields[2]
    end
    read = read + 1
    from = '(' .. entry[1]
    if budget <= 0 or read >= most then
      -- the page ends here, unless nothing follows
      if #redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 1) > 0 then
        page[3] = entry[1]
      end
      return page
    end
  end
  if #entries == 0 then
    return page
  end
end
