-- Put a packed row (ARGV[1]) at KEYS[1] if its order is greater than that of the row there: 1 if a greater one stands there
-- already, else 0.
-- The order is three big-endian 64-bit integers at the start of the row, each below 2^53.
local old = redis.call('GETRANGE', KEYS[1], 0, 23)
if old ~= '' then
  local old_time, old_revision, old_digest = struct.unpack('>I8I8I8', old)
  local new_time, new_revision, new_digest = struct.unpack('>I8I8I8', ARGV[1])
  if new_time ~= old_time then
    if new_time < old_time then return 1 end
  elseif new_revision ~= old_revision then
    if new_revision < old_revision then return 1 end
  elseif new_digest <= old_digest then
    return new_digest < old_digest and 1 or 0
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 0
