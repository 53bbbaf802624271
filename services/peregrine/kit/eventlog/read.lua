-- Reads a log's tail from a position on.
--
-- KEYS  head, tail (see append.lua)
-- ARGV  after (the last position that the reader has), limit
--
-- Returns the frames that follow `after` without a gap: none if the tail begins later or ends before.
local after = tonumber(ARGV[1])
local next_position = tonumber(redis.call('HGET', KEYS[1], 'next') or '0')
local first = next_position - redis.call('LLEN', KEYS[2])
if next_position <= after + 1 or first > after + 1 then
  return {}
end
return redis.call('LRANGE', KEYS[2], after + 1 - first, after - first + tonumber(ARGV[2]))
