"""Which addresses the app knows: templates for metrics, and methods for the Allow header."""

from __future__ import annotations

import re
from functools import cached_property

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path, get_route_path
from starlette.types import Scope

OTHER = "other"  # one label for all unknown addresses, so that a scan cannot grow the metrics


class Routes:
    """A table of the app's routes, made at the first request, when all of them are there."""

    def __init__(self, app: FastAPI, root_path: str = "") -> None:
        self._app, self.root_path = app, root_path

    def template(self, scope: Scope) -> str:
        """The address as written in the code, such as /api/v1/jobs/{id}, of a request that was routed."""
        return self._templates.get(scope.get("endpoint"), OTHER)

    def path(self, scope: Scope) -> str:
        """The request's path without the prefix of a proxy."""
        return get_route_path({**scope, "root_path": self.root_path})

    def allowed(self, path: str) -> str:
        """The methods that this address knows, as the Allow header says it; empty if there is no such address."""
        matching = [(template, methods) for pattern, template, methods in self._patterns if pattern.fullmatch(path)]
        if not matching:
            return ""
        # Of two templates the longer one is meant: /jobs/{id}:{action} rather than /jobs/{id}.
        longest = max(len(template) for template, _ in matching)
        methods = {method for template, each in matching if len(template) == longest for method in each}
        return ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))

    @cached_property
    def _templates(self) -> dict[object, str]:
        return {route.endpoint: route.path_format or OTHER for route in iter_route_contexts(self._app.routes)}

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str, set[str]]]:
        return [
            (compile_path(route.path)[0], route.path, route.methods)
            for route in iter_route_contexts(self._app.routes)
            if route.path and route.methods
        ]
