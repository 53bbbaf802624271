-- Fences a log's tail for a new owner and returns what it holds beyond the durable position.
--
-- KEYS  head, tail (see append.lua)
-- ARGV  new epoch, durable position, seconds to live
--
-- From the moment this ran no append of an older epoch is accepted. Repeating it (a lost reply) returns
-- the same entries. The tail itself stays: the new owner's first append opens it anew.
--
-- Returns {-1} when a higher epoch was here already, else {1, instance that the head was written under
-- ('' = there was no head), frame, frame, ...}.
local epoch, durable = tonumber(ARGV[1]), tonumber(ARGV[2])
local head = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'instance')
if tonumber(head[1] or '0') > epoch then
  return {-1}
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
if not head[1] or tonumber(head[1]) < epoch then
  redis.call('HSET', KEYS[1], 'opened', 0)
end
local reply = {1, head[3] or ''}
if head[2] then
  local first = tonumber(head[2]) - redis.call('LLEN', KEYS[2])
  if first <= durable + 1 then
    for _, frame in ipairs(redis.call('LRANGE', KEYS[2], durable + 1 - first, -1)) do
      reply[#reply + 1] = frame
    end
  else
    reply[2] = '' -- entries are missing in between: as good as no tail
  end
else
  redis.call('HSET', KEYS[1], 'next', durable + 1)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return reply
