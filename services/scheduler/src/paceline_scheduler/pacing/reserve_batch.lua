-- Purpose: propose one slot each for up to a batch of mailboxes of one workspace, O(log n) in
--   mailboxes and independent of queued jobs and of mailboxes that have nothing to do.
--   First takes in what was told (`incoming`), then promotes jobs that fell due.
--   Queues are lists of job ids in chunks under one hash: field <list> = {head, tail, offset},
--   field <list>/<n> = {job, ...}; a list is m<mailbox> (its own follow-ups) or c<campaign>.
-- KEYS: 1 meta (hash: epoch, turn)  2 incoming (list)  3 ready (zset mailbox -> eligible ms)
--   4 idle (zset, the same, of mailboxes without work)  5 mailbox (hash id -> record)
--   6 due (zset <list>:<job> -> due ms)  7 queue (hash)  8 turn (zset campaign -> last turn)
--   9 route (hash campaign -> {pool, ...})
-- ARGV: 1 most proposals  2 jitter draws in [0, 1), msgpack array  3 now in ms, or '' for TIME
-- Returns: {} when the state is lost, else {epoch, now ms, wake ms or -1,
--   {mailbox, job, campaign or 0, pool or 0, slot ms, not-after ms, ...}, {stale mailbox, ...}}.
--   Stale mailboxes need their next open stretch compiled; wake is when to call again.
local META, INCOMING, READY, IDLE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local MAILBOX, DUE, QUEUE, TURN, ROUTE = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local CHUNK, MESSAGES, PROMOTE, STALE_MS = 128, 200, 1000, 1000
local pack, unpack_ = cmsgpack.pack, cmsgpack.unpack
local call = redis.call

local epoch = call('HGET', META, 'epoch')
if not epoch then
  return {}
end
local now
if ARGV[3] == '' then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = tonumber(ARGV[3])
end

-- Queues, read once and written back at the end.
local lists, chunks = {}, {}

local function list(name)
  local found = lists[name]
  if not found then
    local raw = call('HGET', QUEUE, name)
    local h = raw and unpack_(raw) or { 1, 0, 0 }
    found = { name = name, head = h[1], tail = h[2], offset = h[3], dirty = false }
    lists[name] = found
  end
  return found
end

local function chunk(l, n)
  local field = l.name .. '/' .. n
  local found = chunks[field]
  if not found then
    local raw = call('HGET', QUEUE, field)
    found = { jobs = raw and unpack_(raw) or {}, dirty = false }
    chunks[field] = found
  end
  return found
end

local function append(l, job)
  local last = l.head <= l.tail and chunk(l, l.tail)
  if not last or #last.jobs >= CHUNK then
    l.tail = l.tail + 1
    last = chunk(l, l.tail)
    last.jobs = {}
  end
  last.jobs[#last.jobs + 1] = job
  last.dirty, l.dirty = true, true
end

local function prepend(l, jobs)
  if l.offset > 0 then
    local first, rest = chunk(l, l.head), {}
    for i = l.offset + 1, #first.jobs do
      rest[#rest + 1] = first.jobs[i]
    end
    first.jobs, first.dirty, l.offset = rest, true, 0
  end
  l.head = l.head - 1
  local front = chunk(l, l.head)
  front.jobs, front.dirty, l.dirty = jobs, true, true
end

local function pop(l)
  if l.head > l.tail then
    return nil
  end
  local first = chunk(l, l.head)
  l.offset = l.offset + 1
  local job = first.jobs[l.offset]
  if l.offset >= #first.jobs then
    first.jobs, first.dirty = {}, true
    l.head, l.offset = l.head + 1, 0
  end
  l.dirty = true
  return job
end

local function id(n)
  return string.format('%.0f', n)
end

-- Work arrived: for one mailbox, or for any.
local wake_all = false
local function wake(name)
  if string.sub(name, 1, 1) == 'm' then
    local mailbox = string.sub(name, 2)
    local at = call('ZSCORE', IDLE, mailbox)
    if at then
      call('ZREM', IDLE, mailbox)
      call('ZADD', READY, at, mailbox)
    end
  else
    wake_all = true
  end
end

for _, raw in ipairs(call('LPOP', INCOMING, MESSAGES) or {}) do
  local m = unpack_(raw)
  if m[1] == 'q' then
    local l = list(m[2])
    for _, job in ipairs(m[3]) do
      append(l, job)
    end
    wake(m[2])
  elseif m[1] == 'f' then
    prepend(list(m[2]), m[3])
    wake(m[2])
  elseif m[1] == 'm' then
    call('HSET', MAILBOX, id(m[2]), pack(m[4]))
    call('ZREM', IDLE, id(m[2]))
    call('ZADD', READY, m[3], id(m[2]))
  elseif m[1] == 'x' then
    call('HDEL', MAILBOX, id(m[2]))
    call('ZREM', READY, id(m[2]))
    call('ZREM', IDLE, id(m[2]))
  elseif m[1] == 't' then
    local keep = {}
    for _, entry in ipairs(m[2]) do
      local campaign = id(entry[1])
      keep[campaign] = true
      call('HSET', ROUTE, campaign, pack(entry[2]))
      call('ZADD', TURN, 'NX', 0, campaign)
    end
    for _, campaign in ipairs(call('ZRANGE', TURN, 0, -1)) do
      if not keep[campaign] then
        call('ZREM', TURN, campaign)
        call('HDEL', ROUTE, campaign)
      end
    end
    wake_all = true
  end
end

local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, PROMOTE)
if #due > 0 then
  call('ZREM', DUE, unpack(due))
  for _, member in ipairs(due) do
    local name, job = string.match(member, '^(%a%d+):(%d+)$')
    append(list(name), tonumber(job))
    wake(name)
  end
end
if wake_all and call('EXISTS', IDLE) == 1 then
  call('ZUNIONSTORE', READY, 2, READY, IDLE)
  call('DEL', IDLE)
end

-- Campaigns in rotation, least recently served first: small ones are not starved.
local campaigns
local function rotation()
  if not campaigns then
    campaigns = {}
    for _, campaign in ipairs(call('ZRANGE', TURN, 0, -1)) do
      local pools = {}
      for _, pool in ipairs(unpack_(call('HGET', ROUTE, campaign))) do
        pools[pool] = true
      end
      campaigns[#campaigns + 1] = { id = campaign, pools = pools, list = 'c' .. campaign }
    end
  end
  return campaigns
end

-- A job for one mailbox: its own follow-ups first, then the campaigns its pools serve.
local function next_job(mailbox, pools)
  local own = pop(list('m' .. mailbox))
  if own then
    return own, '0', 0
  end
  for position, campaign in ipairs(rotation()) do
    for _, pool in ipairs(pools) do
      if campaign.pools[pool] then
        local job = pop(list(campaign.list))
        if job then
          table.remove(campaigns, position)
          campaigns[#campaigns + 1] = campaign
          call('ZADD', TURN, call('HINCRBY', META, 'turn', 1), campaign.id)
          return job, campaign.id, pool
        end
        break
      end
    end
  end
end

local most, draws = tonumber(ARGV[1]), unpack_(ARGV[2])
local proposals, stale, made = {}, {}, 0
local eligible = call('ZRANGEBYSCORE', READY, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #eligible, 2 do
  local mailbox = eligible[i]
  local raw = call('HGET', MAILBOX, mailbox)
  if not raw then
    call('ZREM', READY, mailbox)
  else
    -- {next ms, cadence, jitter min, jitter max, grace, lead, open from, open until, left, pools}
    local r = unpack_(raw)
    local slot = math.max(now + r[6], r[1], r[7])
    if slot >= r[8] or r[9] == 0 then
      stale[#stale + 1] = tonumber(mailbox)
      -- Until it is compiled anew; asked for again if that gets lost.
      call('ZADD', READY, now + STALE_MS, mailbox)
    elseif slot - r[6] > now then
      call('ZADD', READY, slot - r[6], mailbox)
    else
      local job, campaign, pool = next_job(mailbox, r[10])
      if not job then
        call('ZREM', READY, mailbox)
        -- With its score, so that the least recently used comes first again.
        call('ZADD', IDLE, eligible[i + 1], mailbox)
      else
        made = made + 1
        r[1] = slot + r[2] + r[3] + math.floor((r[4] - r[3]) * draws[made])
        if r[9] > 0 then
          r[9] = r[9] - 1
        end
        call('HSET', MAILBOX, mailbox, pack(r))
        call('ZADD', READY, r[1] - r[6], mailbox)
        for _, value in ipairs({
          tonumber(mailbox), job, tonumber(campaign), pool, slot, math.min(slot + r[5], r[8]),
        }) do
          proposals[#proposals + 1] = value
        end
      end
    end
  end
end

for field, c in pairs(chunks) do
  if c.dirty then
    if #c.jobs == 0 then
      call('HDEL', QUEUE, field)
    else
      call('HSET', QUEUE, field, pack(c.jobs))
    end
  end
end
for name, l in pairs(lists) do
  if l.dirty then
    if l.head > l.tail then
      call('HDEL', QUEUE, name)
    else
      call('HSET', QUEUE, name, pack({ l.head, l.tail, l.offset }))
    end
  end
end

local wake_at = -1
for _, key in ipairs({ READY, DUE }) do
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] and (wake_at < 0 or tonumber(first[2]) < wake_at) then
    wake_at = tonumber(first[2])
  end
end
if call('EXISTS', INCOMING) == 1 then
  wake_at = now
end
return { tonumber(epoch), now, wake_at, proposals, stale }
