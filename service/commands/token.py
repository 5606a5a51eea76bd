"""``fusetune token``: API tokens and sign-in links, straight in the database of a server, running or not."""

from __future__ import annotations

import argparse
import json
import os
import sys

from rich.console import Console
from rich.table import Table

from db.access import Token
from db.store import Store
from service.commands.places import database

LINK_SECONDS = 3600.0  # how long a sign-in link is good


def token(args: argparse.Namespace) -> int:
    """The command; ``args.action`` says which one."""
    with Store.open(database(args)) as store:
        return {"create": _create, "list": _list, "revoke": _revoke, "login": _login}[args.action](store, args)


def sign_in_link(store: Store, url: str) -> str:
    """A fresh one-time link to the server that browsers reach at ``url``."""
    return f"{url.rstrip('/')}/login?code={store.access.codes.issue(LINK_SECONDS)}"


def _create(store: Store, args: argparse.Namespace) -> int:
    id, secret = store.access.tokens.create(args.name, args.role)
    if args.json:
        print(json.dumps({"id": id, "name": args.name.strip(), "role": args.role, "secret": secret}))
    else:
        # The secret alone on stdout, for TOKEN=$(fusetune token create ...).
        print(f"Token {id}, role {args.role}. This is the only time it is shown:", file=sys.stderr)
        print(secret)
    return 0


def _list(store: Store, args: argparse.Namespace) -> int:
    tokens = store.access.tokens.list(revoked=args.all)
    if args.json:
        print(json.dumps([_json(each) for each in tokens]))
        return 0
    if not tokens:
        print("There are no tokens. `fusetune token create NAME` makes one.")
        return 0
    table = Table()
    for column in ("id", "name", "role", "created", "last used", *(["revoked"] if args.all else [])):
        table.add_column(column)
    for each in tokens:
        moments = [each.created_at, each.last_used_at, *([each.revoked_at] if args.all else [])]
        times = [moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else "-" for moment in moments]
        table.add_row(each.id, each.name, each.role, *times)
    Console().print(table)
    return 0


def _revoke(store: Store, args: argparse.Namespace) -> int:
    gone = store.access.tokens.revoke(args.id)
    print(f"Token {gone.id} ('{gone.name}') is refused from now on.")
    return 0


def _login(store: Store, args: argparse.Namespace) -> int:
    url = args.url or os.environ.get("FUSETUNE_URL") or "http://127.0.0.1:8077"
    print(sign_in_link(store, url))
    return 0


def _json(token: Token) -> dict[str, str | None]:
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "created_at": token.created_at.isoformat(),
        "last_used_at": token.last_used_at.isoformat() if token.last_used_at else None,
        "revoked_at": token.revoked_at.isoformat() if token.revoked_at else None,
    }
