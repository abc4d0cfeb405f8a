"""The backends, from Python: which of them can be used.

    for backend in clinvk.probe_backends():
        print(backend.name, backend.state, backend.version, backend.login)

No model is called for that.
"""

from __future__ import annotations

from clinvk.api.sync import blocking
from clinvk.backend import probe
from clinvk.backend.probe import BackendStatus
from clinvk.dispatch.dispatcher import Dispatcher, own_unless


async def aprobe_backends(*names: str, dispatcher: Dispatcher | None = None) -> list[BackendStatus]:
    """What `clinvk doctor` finds out about the backends of these names, or about all of them; no
    model is called. Each program is started to ask for its version, which may take up to 20
    seconds. What is wrong with one is in its status. Raises `NotInstalledError` for a name that no
    backend has, `ConfigError` if the configuration is invalid."""
    with own_unless(dispatcher) as where:
        wanted = names or where.catalog.names()
        return await probe.probe_backends(where.catalog, wanted, where.config, where.env)


probe_backends = blocking(aprobe_backends)
