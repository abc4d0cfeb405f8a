"""The status of backends, from Python.

    for backend in clinvk.probe_backends():
        print(backend.name, backend.state, backend.version, backend.login)

This calls no model.
"""

from __future__ import annotations

from clinvk.api.sync import blocking
from clinvk.backend import probe
from clinvk.backend.probe import BackendStatus
from clinvk.dispatch.dispatcher import Dispatcher, own_unless


async def aprobe_backends(*names: str, dispatcher: Dispatcher | None = None) -> list[BackendStatus]:
    """The status of the backends of these names, or of all, as in `clinvk doctor`; no model is
    called. Each program is started to ask for its version, which may take up to 20 seconds. Errors
    of a backend are in its status. Raises `NotInstalledError` for an unknown backend, `ConfigError`
    if the configuration is invalid."""
    with own_unless(dispatcher) as where:
        wanted = names or where.catalog.names()
        return await probe.probe_backends(where.catalog, wanted, where.config, where.env)


probe_backends = blocking(aprobe_backends)
