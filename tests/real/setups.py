"""What opencode, qwen, pi, copilot, cline and llm need in a home to talk to the model server, and to
nothing else. That of claude, codex and gemini is in `conftest.py`."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

from tests import clis

MODEL = "made-up"
NOWHERE = "http://127.0.0.1:9"  # for what they would fetch


def opencode(home: Path, url: str) -> dict[str, str]:
    options = {"baseURL": f"{url}/v1", "apiKey": "sk-fake"}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "loopback",
        "options": options,
        "models": {MODEL: {"name": MODEL, "tool_call": True}},
    }
    config = {
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,  # a copy of the project before each step
        "model": f"loopback/{MODEL}",
        "small_model": f"loopback/{MODEL}",
        "provider": {"loopback": provider},
    }
    _write(home / ".config" / "opencode" / "opencode.json", json.dumps(config))
    return {
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "npm_config_registry": NOWHERE,  # it installs a package for plugins
        "npm_config_fetch_retries": "0",
    }


def qwen(home: Path, url: str) -> dict[str, str]:
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "general": {"enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "memory": {"enableManagedAutoMemory": False},  # a second call of the model in each run
        "model": {"name": MODEL},
    }
    _write(home / ".qwen" / "settings.json", json.dumps(settings))
    return {"OPENAI_API_KEY": "sk-fake", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": MODEL}


def pi(home: Path, url: str) -> dict[str, str]:
    provider = {
        "baseUrl": f"{url}/v1",
        "api": "openai-completions",
        "apiKey": "sk-fake",
        "models": [{"id": MODEL}],
    }
    settings = {
        "defaultProvider": "loopback",
        "defaultModel": MODEL,
        "enableInstallTelemetry": False,
        "retry": {"enabled": False},
    }
    agent = home / ".pi" / "agent"
    _write(agent / "models.json", json.dumps({"providers": {"loopback": provider}}))
    _write(agent / "settings.json", json.dumps(settings))
    return {"PI_TELEMETRY": "0"}


def copilot(_home: Path, url: str) -> dict[str, str]:
    return {
        # It unpacks itself before its first run, 190 MB.
        "COPILOT_CACHE_HOME": str(clis.DEFAULT / "copilot"),
        "COPILOT_AUTO_UPDATE": "false",
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_BASE_URL": f"{url}/v1",
        "COPILOT_PROVIDER_API_KEY": "sk-fake",
        "COPILOT_MODEL": MODEL,
    }


def cline(home: Path, url: str) -> dict[str, str]:
    """As `cline auth -p openai-compatible` writes it."""
    provider = {
        "provider": "openai-compatible",
        "apiKey": "sk-fake",
        "model": MODEL,
        "baseUrl": f"{url}/v1",
    }
    settings = {
        "version": 1,
        "lastUsedProvider": "openai-compatible",
        "modes": {},
        "providers": {
            "openai-compatible": {
                "settings": provider,
                "updatedAt": "2026-11-28T00:00:00.000Z",
                "tokenSource": "manual",
            }
        },
    }
    _write(home / ".cline" / "data" / "settings" / "providers.json", json.dumps(settings))
    # The port of its hub is the same for all users of the machine otherwise.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"CLINE_HUB_PORT": str(port), "DO_NOT_TRACK": "1", "HTTPS_PROXY": NOWHERE}


def llm(home: Path, url: str) -> dict[str, str]:
    folder = home / ".config" / "io.datasette.llm"
    model = {
        "model_id": MODEL,
        "model_name": MODEL,
        "api_base": f"{url}/v1",
        "api_key_name": "loopback",
        "supports_schema": True,
    }
    _write(folder / "extra-openai-models.yaml", json.dumps([model]))
    _write(folder / "keys.json", json.dumps({"loopback": "sk-fake"}))
    _write(folder / "default_model.txt", MODEL)
    return {}


SETUPS: dict[str, Callable[[Path, str], dict[str, str]]] = {
    "opencode": opencode,
    "qwen": qwen,
    "pi": pi,
    "copilot": copilot,
    "cline": cline,
    "llm": llm,
}


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
