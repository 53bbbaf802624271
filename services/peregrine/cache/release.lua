-- Gives a lease back. KEYS[1]: the lease; ARGV: its token, the state it leaves ('f': free; 'u': its values are not
-- kept), milliseconds that this is remembered. Returns whether it was held under that token.
if redis.call('GET', KEYS[1]) ~= 'h' .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ARGV[1], 'PX', ARGV[3])
return 1
