-- Takes a lease that nobody holds, or renews one. KEYS[1]: the lease; ARGV: milliseconds, token to renew or ''.
-- Held: 'h' and the token. Given back: 'f' and the last token, for a minute, so that the next one is higher even
-- when the clock went back. Known to give values that are not kept: 'u'; then nobody waits for anybody.
-- Returns 1 and the token of the caller; 0 when another one holds it; 2 when it is better to go without.
local held = redis.call('GET', KEYS[1])
if ARGV[2] ~= '' then
    if held ~= 'h' .. ARGV[2] then return {0, ''} end
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    return {1, ARGV[2]}
end
local state = held and string.sub(held, 1, 1)
if state == 'h' then return {0, ''} end
if state == 'u' then return {2, ''} end
local time = redis.call('TIME')
local token = tonumber(time[1]) * 1000000 + tonumber(time[2])
if held then token = math.max(token, tonumber(string.sub(held, 2)) + 1) end
local text = string.format('%.0f', token)
redis.call('SET', KEYS[1], 'h' .. text, 'PX', ARGV[1])
return {1, text}
