"""How long it takes to start: against a bare Python that does nothing."""

from __future__ import annotations

from pathlib import Path

from bench.measure import BARE, CLINVK, backend, compare, home, once, table

STUB = """echo '{"type":"start","id":"'$$'"}'; echo '{"type":"end","text":"hi"}'"""


def main() -> None:
    print(
        "start, CPU: version <= 4.5 x, sessions list <= 8 x, a prompt over an instant stub <= 12 x"
    )
    with home() as env:
        backend(env, "stub", STUB)
        (Path(env["CLINVK_HOME"]) / "config.yaml").write_text("session:\n  retention_days: 30\n")
        for _ in range(20):
            once([*CLINVK, "-b", "echo", "hello"], env)
        listed = compare(
            {
                "bare python": BARE,
                "clinvk version": [*CLINVK, "version"],
                "clinvk sessions list (20)": [*CLINVK, "sessions", "list"],
            },
            env,
        )
        table(listed, "bare python")
        asked = compare({"bare python": BARE, 'clinvk "p"': [*CLINVK, "-b", "stub", "p"]}, env)
        table(asked, "bare python")


if __name__ == "__main__":
    main()
