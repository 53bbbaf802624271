-- Appends entries to the tail of one log, if the caller is its owner and nothing is missing before them.
--
-- KEYS  head (hash: epoch, next, opened, instance), tail (list of frames, contiguous up to next - 1)
-- ARGV  epoch, first position, open serial (0 = a plain append), durable position, then one frame
--       per entry
-- The loader puts constants before this text: INSTANCE (which run of the server it is loaded into),
-- LIVE_SECONDS and ENDED_SECONDS to keep a log, KEEP entries of one. The channel is the common part of the keys.
--
-- An open (serial > 0) says "everything before `first` is durable elsewhere, what follows here is all
-- that is not": the tail starts again at `first`. Its serial grows with each open of an owner, so that
-- one which was delayed on a broken connection cannot undo a later one.
--
-- Returns the next position, or -1 fenced by a higher epoch, -2 not continuous (open first), -3 stale open.
local epoch, first, serial = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local head = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'opened')
local stored, next_position = tonumber(head[1] or '0'), tonumber(head[2] or '0')
if stored > epoch then
  return -1
end
if serial > 0 then
  if stored == epoch and tonumber(head[3] or '0') >= serial then
    return -3
  end
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'next', ARGV[2], 'opened', ARGV[3], 'instance', INSTANCE)
  next_position = first
elseif stored < epoch or first > next_position then
  return -2
end

-- What is already there came with an attempt whose reply was lost: under one epoch a position has one content.
local from = 5 + (next_position - first)
local count = #ARGV
local length = 0
if from <= count then
  for start = from, count, 1000 do
    length = redis.call('RPUSH', KEYS[2], unpack(ARGV, start, math.min(start + 999, count)))
  end
  next_position = next_position + count - from + 1
  redis.call('HSET', KEYS[1], 'next', next_position)
  if length > KEEP + 256 then
    -- Only what is durable may go: the rest exists nowhere but here and in the owner's memory.
    local spare = tonumber(ARGV[4]) - (next_position - length) + 1
    local drop = math.min(length - KEEP, spare)
    if drop > 0 then
      redis.call('LTRIM', KEYS[2], drop, -1)
    end
  end
  redis.call('PUBLISH', string.sub(KEYS[1], 1, -6), table.concat(ARGV, '', from))
end
local seconds = LIVE_SECONDS
if #ARGV > 4 and string.byte(ARGV[#ARGV], 17) == 1 then
  -- The terminal entry: all is durable, so this is only for those who are reading just now.
  seconds = ENDED_SECONDS
end
redis.call('EXPIRE', KEYS[1], seconds)
redis.call('EXPIRE', KEYS[2], seconds)
return next_position
