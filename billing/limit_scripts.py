"""What Redis does for limits: the scripts. How their arguments are written stands in `billing.limit_plans`.

One hash per tenant holds everything that is spent and granted, so that all of it is lost together or not at all:

    e                      the epoch, `<run id of the server>:<pool>`: whose grants these are
    c:<limit>:<p><start>   a day or month of a limit: granted, base, used, held; base is what all but this pool
                           account for
    r:<limit>              a minute limit: 61 buckets of one second each, a ring, behind their sum and the last second

A sorted set beside it holds one member for each hold, by the time it expires: `<head>\\n<plan>`. A head says what is
asked: `<request> <model> <epoch> <tokens> <nano> <number>`, its epoch empty where no day or month is limited. Only
Redis' own clock counts here. The same decision in Python stands in `billing.spending`; a test runs both side by side.
Pure.
"""

from __future__ import annotations

from billing.redis_pipe import Script

BUCKET_MS = 1000
BUCKETS = 61  # a second that has only begun counts whole, so 60 seconds touch 61 of them

_COMMON = """
local H, Z = KEYS[1], KEYS[2]
local N = 61
local call, floor, pack, parse = redis.call, math.floor, struct.pack, struct.unpack

local function clock()
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

local function empty_ring()
  return string.rep(pack('<d', 0), N)
end

-- values of the fields that a plan names, each once: calendar {granted, base, used, held}, rate {sum, last, ring}
local function read(plans)
  local fields, is_rate, n = {'e'}, {}, 1
  for _, plan in ipairs(plans) do
    for i = 1, #plan, 5 do
      local field = plan[i]
      if is_rate[field] == nil then
        n = n + 1
        fields[n], is_rate[field] = field, plan[i + 1] == 1
      end
    end
  end
  if n == 1 then return nil, {}, fields end
  local found, state = call('HMGET', H, unpack(fields)), {}
  for i = 2, n do
    local raw, field = found[i], fields[i]
    if not is_rate[field] then
      if raw then
        local granted, base, used, held = parse('<dddd', raw)
        state[field] = {granted, base, used, held}
      end
    elseif raw then
      local sum, last = parse('<dd', raw)
      state[field] = {sum, last, string.sub(raw, 17)}
    else
      state[field] = {0, 0, empty_ring()}
    end
  end
  return found[1], state, fields
end

local function write(state, fields)
  local out, n = {}, 0
  for i = 2, #fields do
    local v = state[fields[i]]
    if v then
      out[n + 1] = fields[i]
      out[n + 2] = v[4] and pack('<dddd', v[1], v[2], v[3], v[4]) or pack('<dd', v[1], v[2]) .. v[3]
      n = n + 2
    end
  end
  if n > 0 then call('HSET', H, unpack(out)) end
end

local function bucket(v, slot)
  return (parse('<d', v[3], slot % N * 8 + 1))
end

local function put(v, slot, amount)
  local at = slot % N * 8
  v[3] = string.sub(v[3], 1, at) .. pack('<d', amount) .. string.sub(v[3], at + 9)
end

-- forgets the buckets that have left the window
local function advance(v, slot)
  if slot - v[2] >= N or v[1] == 0 then
    if v[1] ~= 0 then v[1], v[3] = 0, empty_ring() end
    if slot > v[2] then v[2] = slot end
    return
  end
  while v[2] < slot do
    v[2] = v[2] + 1
    local old = bucket(v, v[2])
    if old ~= 0 then
      v[1] = v[1] - old
      put(v, v[2], 0)
    end
  end
end

local function give_back(v, slot, amount)
  if v and amount > 0 and slot > v[2] - N and slot <= v[2] then
    local there = bucket(v, slot)
    local back = math.min(there, amount)
    v[1] = v[1] - back
    put(v, slot, there - back)
  end
end

-- what a hold's head says: its epoch, and how much it asks by measure (requests, tokens, nano-dollars)
local function asked(head)
  local epoch, tokens, nano = string.match(head, '^%S* %S* (%S*) (%d+) (%d+) ')
  return epoch, {1, tonumber(tokens), tonumber(nano)}
end

-- takes a hold out of the values: by measure, what was held in `slot` and what of it is charged; what another pool
-- holds of days and months is no matter of this one (`same`)
local function take_out(plan, state, same, held, charged, slot)
  for i = 1, #plan, 5 do
    local v, measure = state[plan[i]], plan[i + 2]
    if plan[i + 1] == 1 then
      give_back(v, slot, held[measure] - charged[measure])
    elseif v and same then
      v[4] = v[4] - held[measure]
      v[3] = v[3] + charged[measure]
    end
  end
end
"""

# ARGV: bucket ms, plan, lease ms, head; then, where they are needed, force ('1': soft limits ask no block) and, of a
# hold to replace: plan, head, when it was held.
# Answers a string of doubles (the time, then what remains of each limit), or one of
#   {'pool', epoch}    it is another one
#   {'short', …}       for each limit that needs more: its number, how much, what is accounted for (-1: not known)
#   {'rate', number, ms until it fits or -1, what is accounted for}
HOLD = Script(
    _COMMON
    + """
local width, plan, head, force = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2]), ARGV[4], ARGV[5] == '1'
local epoch, needs = asked(head)
local old, old_member = nil, nil
if ARGV[6] then
  old_member = ARGV[7] .. ARGV[6]
  if call('ZSCORE', Z, old_member) then old = cmsgpack.unpack(ARGV[6]) end
end
local stored, state, fields = read(old and {plan, old} or {plan})
if epoch ~= '' and stored ~= epoch then return {'pool', stored or ''} end
local now = clock()
local slot = floor(now / width)
for i = 2, #fields do
  local v = state[fields[i]]
  if v and not v[4] then advance(v, slot) end
end
if old then
  local old_epoch, held = asked(ARGV[7])
  take_out(old, state, old_epoch == stored, held, {0, 0, 0}, floor(ARGV[8] / width))
end

local short, rate, wait = {}, nil, 0
for i = 1, #plan, 5 do
  local v, need, hard, amount = state[plan[i]], needs[plan[i + 2]], plan[i + 3] == 1, plan[i + 4]
  if plan[i + 1] == 1 then
    if hard and v[1] + need > amount then
      local this = -1
      if need <= amount then
        local sum = v[1]
        for s = v[2] - N + 1, v[2] do
          sum = sum - bucket(v, s)
          if sum + need <= amount then
            this = (s + N) * width - now
            break
          end
        end
      end
      if not rate or this == -1 or (wait ~= -1 and this > wait) then rate, wait = i, this end
    end
  elseif not v then
    if hard or not force then
      short[#short + 1] = (i - 1) / 5
      short[#short + 1] = string.format('%.0f', need)
      short[#short + 1] = '-1'
    else
      v = {0, 0, 0, 0}
      state[plan[i]] = v
    end
  else
    local spent = v[3] + v[4] + need
    if (spent > v[1] and (hard or not force)) or (hard and v[2] + spent > amount) then
      short[#short + 1] = (i - 1) / 5
      short[#short + 1] = string.format('%.0f', math.max(0, spent - v[1]))
      short[#short + 1] = string.format('%.0f', v[2] + v[3] + v[4])
    end
  end
end
if #short > 0 then return {'short', unpack(short)} end
if rate then
  return {'rate', (rate - 1) / 5, string.format('%.0f', wait), string.format('%.0f', state[plan[rate]][1])}
end

local left, n = {now}, 1
for i = 1, #plan, 5 do
  local v, need = state[plan[i]], needs[plan[i + 2]]
  n = n + 1
  if plan[i + 1] == 1 then
    v[1] = v[1] + need
    put(v, v[2], bucket(v, v[2]) + need)
    left[n] = plan[i + 4] - v[1]
  else
    v[4] = v[4] + need
    left[n] = plan[i + 4] - v[2] - v[3] - v[4]
  end
end
write(state, fields)
if old then call('ZREM', Z, old_member) end
call('ZADD', Z, string.format('%.0f', now + ARGV[3]), head .. ARGV[2])
return pack('<' .. string.rep('d', n), unpack(left))
"""
)

# ARGV: bucket ms, plan, head, then in one word when it was held and what is charged: `<ms> <tokens> <nano> <requests>`.
# Answers 1, or 0 where the hold is gone (settled already, expired and dealt with, or lost with Redis).
SETTLE = Script(
    _COMMON
    + """
if call('ZREM', Z, ARGV[3] .. ARGV[2]) == 0 then return 0 end
local plan = cmsgpack.unpack(ARGV[2])
if #plan == 0 then return 1 end
local stored, state, fields = read({plan})
local epoch, held = asked(ARGV[3])
local at, tokens, nano, requests = string.match(ARGV[4], '^(%d+) (%d+) (%d+) (%d+)$')
local charged = {tonumber(requests), tonumber(tokens), tonumber(nano)}
take_out(plan, state, stored == epoch, held, charged, floor(at / ARGV[1]))
write(state, fields)
return 1
"""
)

# ARGV: epoch, then for each: field, granted to this pool in all, base. Absolute figures: a second time does no harm.
CREDIT = Script(
    """
if redis.call('HGET', KEYS[1], 'e') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 3 do
  local raw = redis.call('HGET', KEYS[1], ARGV[i])
  local granted, base, used, held = 0, 0, 0, 0
  if raw then granted, base, used, held = struct.unpack('<dddd', raw) end
  granted = math.max(granted, tonumber(ARGV[i + 1]))
  redis.call('HSET', KEYS[1], ARGV[i], struct.pack('<dddd', granted, tonumber(ARGV[i + 2]), used, held))
end
return 1
"""
)

# ARGV: the epoch that is to go ('' for none), the new one ('' for none). Rates and holds stay. Answers the epoch that
# is there in the end.
INSTALL = Script(
    """
local stored = redis.call('HGET', KEYS[1], 'e') or ''
if stored ~= ARGV[1] then return stored end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.byte(field) == 99 then redis.call('HDEL', KEYS[1], field) end
end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'e') else redis.call('HSET', KEYS[1], 'e', ARGV[2]) end
return ARGV[2]
"""
)

# ARGV: first day of the oldest day that still counts, and of the oldest month (YYYYMMDD). Answers 1 where something is
# held though there is no hold.
TIDY = Script(
    """
local held = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.byte(field) == 99 then
    local kind, start = string.match(field, ':(%a)(%d+)$')
    if start < (kind == 'd' and ARGV[1] or ARGV[2]) then
      redis.call('HDEL', KEYS[1], field)
    else
      local granted, base, used, h = struct.unpack('<dddd', redis.call('HGET', KEYS[1], field))
      held = held + h
    end
  end
end
if held > 0 and redis.call('EXISTS', KEYS[2]) == 0 then return 1 end
return 0
"""
)
SCRIPTS = (HOLD, SETTLE, CREDIT, INSTALL, TIDY)
