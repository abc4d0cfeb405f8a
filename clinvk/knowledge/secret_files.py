"""Files that hold secrets, by their names: they are never added to a prompt."""

from __future__ import annotations

import re

_NAMES = re.compile(
    r"""
    \.env(?:[._-].*)?|.*\.env                   # but not examples of them, see below
    |\.netrc|_netrc|\.pgpass|\.my\.cnf|\.htpasswd|\.git-credentials|\.dockercfg
    |\.npmrc|\.yarnrc(?:\.yml)?|\.pypirc|\.s3cfg|\.boto|\.vault-token|\.terraformrc|\.envrc
    |id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?.*(?<!\.pub)
    |.*\.(?:pem|key|p12|pfx|p8|ppk|jks|keystore|kdbx?|asc|gpg|ovpn|mobileprovision|agekey)
    |(?:.*[._-])?secrets?(?:\.(?:ya?ml|json|toml|ini|env|txt))?
    |credentials?(?:\.(?:json|ya?ml|toml|ini|csv|txt|xml|db))?
    |.*service[_-]?account.*\.json|application_default_credentials\.json|auth\.json
    |.*\.tfstate(?:\..*)?|.*\.tfvars(?:\.json)?|kubeconfig|.*\.kubeconfig|master\.key
    |wp-config\.php|shadow|passwd-?|\.?(?:bash|zsh|sh|psql|mysql|python|node_repl)_history
    """,
    re.VERBOSE | re.IGNORECASE,
)
_EXAMPLES = re.compile(
    r".*[._-](?:example|sample|template|dist|defaults?)(?:\.[^.]*)?", re.IGNORECASE
)
_DIRECTORIES = frozenset(
    {
        ".ssh",
        ".gnupg",
        ".aws",
        ".azure",
        ".kube",
        ".docker",
        ".gcloud",
        ".password-store",
        ".secrets",
    }
)


def is_secret_file(name: str) -> bool:
    """Whether a file of this name is likely to hold a secret."""
    return bool(_NAMES.fullmatch(name)) and not _EXAMPLES.fullmatch(name)


def is_secret_directory(name: str) -> bool:
    return name.lower() in _DIRECTORIES
