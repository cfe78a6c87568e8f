-- Health of a ChektWebhook. It reads what kstatus reads, so that Argo CD, Flux and `helm --wait` say the same, and is
-- stricter in two things: a webhook that CHeKT has switched off, and a reason that only a person can do away with, are
-- Degraded.

local function condition(kind)
  for _, c in ipairs(obj.status.conditions or {}) do
    if c.type == kind then
      return c
    end
  end
  return nil
end

local function holds(kind)
  local c = condition(kind)
  return c ~= nil and c.status == "True"
end

local function health(status, message)
  return {status = status, message = message}
end

local function said(c)
  return c.reason .. ": " .. c.message
end

-- Nobody but a person ends these, and they are no Stalled, since a change of another object would end them, too.
local only_a_person = {AccountChanged = true, SecretNotUsable = true}

-- In the words of Argo CD itself, which does not ask here unless the object is a hook.
if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "Pending deletion")
end
-- The API server gives a new object the observedGeneration -1.
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "The operator has not looked at this version yet")
end
local ready = condition("Ready")
if ready == nil then
  return health("Progressing", "The operator has not looked at this version yet")
end
if holds("Suspended") then
  return health("Suspended", said(condition("Suspended")))
end
if holds("Stalled") then
  return health("Degraded", said(condition("Stalled")))
end
-- Until it is on again, CHeKT sends nothing: alarms are lost.
local active = condition("Active")
if active ~= nil and active.status == "False" and active.reason == "SwitchedOff" then
  return health("Degraded", said(active))
end
if ready.status == "True" then
  -- What the next two say does not touch Ready, so it does not hold up a sync either; but it is to be seen.
  if holds("DeliveriesDelayed") then
    return health("Healthy", said(condition("DeliveriesDelayed")))
  end
  local verified = condition("Verified")
  if verified ~= nil and verified.status == "False" then
    return health("Healthy", "Ready and not verified: " .. verified.message)
  end
  return health("Healthy", ready.message)
end
if only_a_person[ready.reason] then
  return health("Degraded", said(ready))
end
return health("Progressing", said(ready))
