-- Adds an event to the stream, unless a later one is there already; who misses it asks PostgreSQL.
-- KEYS[1]: the stream; ARGV: number, events kept, then fields and values.
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[1] .. '-0', unpack(fields))
if type(added) == 'table' and added['err'] then return 0 end
return 1
