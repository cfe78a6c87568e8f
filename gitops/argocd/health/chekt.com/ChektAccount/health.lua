-- Health of a ChektAccount. It reads what kstatus reads, so that Argo CD, Flux and `helm --wait` say the same: Stalled
-- (credentials rejected, webhooks not available, ...) waits for a person and is Degraded; everything else that is not
-- ready (CHeKT is away, the Secret is not there yet) may pass by itself and is Progressing.

local function condition(kind)
  for _, c in ipairs(obj.status.conditions or {}) do
    if c.type == kind then
      return c
    end
  end
  return nil
end

local function health(status, message)
  return {status = status, message = message}
end

local function said(c)
  return c.reason .. ": " .. c.message
end

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
local stalled = condition("Stalled")
if stalled ~= nil and stalled.status == "True" then
  return health("Degraded", said(stalled))
end
if ready.status == "True" then
  local orphans = obj.status.orphans
  if orphans ~= nil and #orphans > 0 then
    local message = ready.message .. " Webhooks let go of without a confirmed delete: " .. #orphans .. " (status.orphans)"
    return health("Healthy", message)
  end
  return health("Healthy", ready.message)
end
return health("Progressing", said(ready))
