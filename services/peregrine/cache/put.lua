-- Stores a frame unless a newer one is there. KEYS[1]: the entry; ARGV: frame, version, milliseconds to live, bytes
-- to hand back. A version more than a minute ahead is a broken clock's, and does not count.
-- Returns the beginning of what was there.
local version = tonumber(ARGV[2])
local held = redis.call('GETRANGE', KEYS[1], 0, ARGV[4] - 1)
local newest = tonumber(string.sub(held, 5, 20))
if newest and newest >= version and newest <= version + 60000000 then
    return ''
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return held
