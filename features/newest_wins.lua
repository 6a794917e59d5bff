-- Put a packed row (ARGV[1]) at KEYS[1] if its order is greater than that of the row there: 1 if it landed, else 0.
-- The order is three big-endian 64-bit integers at the start of the row, each below 2^53.
local old = redis.call('GET', KEYS[1])
if old then
  local old_time, old_revision, old_digest = struct.unpack('>I8I8I8', old)
  local new_time, new_revision, new_digest = struct.unpack('>I8I8I8', ARGV[1])
  if new_time < old_time then return 0 end
  if new_time == old_time then
    if new_revision < old_revision then return 0 end
    if new_revision == old_revision and new_digest <= old_digest then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
