-- Puts a tombstone in the place of an entry; returns whether there was one.
-- KEYS[1]: the entry; ARGV: frame of the tombstone, milliseconds that it stands.
local there = redis.call('GETRANGE', KEYS[1], 3, 3) == 'e'
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return there and 1 or 0
