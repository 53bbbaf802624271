-- Stores a frame unless a newer one is there. KEYS[1]: the entry; ARGV: frame, version, milliseconds to live.
-- A version more than a minute ahead is a broken clock's, and does not count.
local version = tonumber(ARGV[2])
local held = tonumber(redis.call('GETRANGE', KEYS[1], 4, 19))
if held and held >= version and held <= version + 60000000 then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
