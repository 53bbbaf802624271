-- Says what a replica knows, and reads what all have said. KEYS[1]: a hash, one field for each replica; ARGV: the
-- name of this one, and its word (microseconds, a space, a number of the feed), or '' to only ask.
-- A name that was silent for an hour is that of a replica that died. 'begun' tells one life of this hash from another.
-- Returns the time in microseconds, and the fields.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('HSETNX', KEYS[1], 'begun', string.format('%.0f', now))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    local said = fields[i] ~= 'begun' and tonumber(string.match(fields[i + 1], '^%d+'))
    if said and said < now - 3600000000 then redis.call('HDEL', KEYS[1], fields[i]) end
end
return {string.format('%.0f', now), fields}
