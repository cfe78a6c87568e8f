"""A webhook handler as a small team writes it with kopf, after kopf's own tutorial.

POST on creation, PATCH on a change, DELETE at the end, and a look every minute that puts drift right. The id is kept in
the status. kopf itself brings the finalizer, the retries and the memory of what was handled last.
"""

import os
from datetime import datetime, timezone

import aiohttp
import kopf

COLLECTION = os.environ["PARTNER_URL"] + "/partner/v1/webhooks"
HEADERS = {"Authorization": "Bearer " + os.environ["PARTNER_TOKEN"]}
SECRET = os.environ["SIGNING_SECRET"]

KIND = ("chekt.com", "v1alpha1", "chektwebhooks")


@kopf.on.startup()
async def start(memo: kopf.Memo, **_):
    timeout = aiohttp.ClientTimeout(total=10)
    memo.http = aiohttp.ClientSession(headers=HEADERS, timeout=timeout)


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_):
    await memo.http.close()


async def call(memo, method, webhook_id="", body=None):
    """The answer, or None if CHeKT does not know the webhook."""
    url = f"{COLLECTION}/{webhook_id}" if webhook_id else COLLECTION
    async with memo.http.request(method, url, json=body) as answer:
        if answer.status == 404:
            return None
        answer.raise_for_status()
        if answer.content_type != "application/json":
            return {}
        told = await answer.json()
        return told.get("data", told)


def wanted(spec):
    return {"url": spec["url"], "events": list(spec["events"]), "secret": SECRET}


def tell(patch, spec, meta, webhook_id):
    patch.status["webhookID"] = webhook_id
    patch.status["url"] = spec["url"]
    patch.status["observedGeneration"] = meta["generation"]
    patch.status["conditions"] = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Synced",
            "message": "in sync",
            "lastTransitionTime": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    ]


@kopf.on.create(*KIND)
async def create(spec, meta, patch, memo, **_):
    made = await call(memo, "POST", body=wanted(spec))
    tell(patch, spec, meta, made["webhook_id"])


@kopf.on.update(*KIND, field="spec")
async def update(spec, meta, status, patch, memo, **_):
    webhook_id = status.get("webhookID")
    if webhook_id and await call(memo, "PATCH", webhook_id, wanted(spec)) is not None:
        tell(patch, spec, meta, webhook_id)
    else:
        await create(spec=spec, meta=meta, patch=patch, memo=memo)


@kopf.on.delete(*KIND)
async def delete(status, memo, **_):
    webhook_id = status.get("webhookID")
    if webhook_id:
        await call(memo, "DELETE", webhook_id)


@kopf.timer(*KIND, interval=60, initial_delay=60)
async def look(spec, meta, status, patch, memo, **_):
    webhook_id = status.get("webhookID")
    if not webhook_id:
        return
    remote = await call(memo, "GET", webhook_id)
    if remote is None:
        await create(spec=spec, meta=meta, patch=patch, memo=memo)
    elif remote["url"] != spec["url"] or set(remote["events"]) != set(spec["events"]):
        await call(memo, "PATCH", webhook_id, wanted(spec))
