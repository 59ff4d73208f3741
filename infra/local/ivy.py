"""Run the Ivy that ships inside pyspark to fetch files from a Maven repository."""

import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from infra.local import java

CONNECT_TIMEOUT_MS = 8_000  # a command that lacks a dependency shall say so within 10 seconds
READ_TIMEOUT_MS = 60_000


class FetchFailed(DependencyDown):
    code = "FETCH_FAILED"

    def __init__(self, root: str, cause: str) -> None:
        super().__init__(
            "Maven repository",
            root,
            cause,
            remedy="check the network, or set VIGIL_MAVEN_ROOT to a repository this machine can reach",
        )


def retrieve(
    settings: Settings, scratch: Path, module: str, fetched: Callable[[str], None], *, use_poms: bool = False
) -> None:
    """Fetch what the ivy.xml `module` names to `scratch/GROUP/NAME-REVISION.EXT`, calling `fetched` per file.

    With `use_poms` dependencies are followed. Raises NoJdk, and FetchFailed at the first file missing.
    """
    (scratch / "ivy.xml").write_text(module)
    (scratch / "ivysettings.xml").write_text(_settings_file(settings, scratch, use_poms))
    argv = [str(java.find(settings).java), *_proxy_options(), "-jar", str(_program())]
    argv += ["-settings", "ivysettings.xml", "-ivy", "ivy.xml"]
    argv += ["-retrieve", "[conf]/[artifact]-[revision].[ext]"]
    process = subprocess.Popen(argv, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip(" :\t\n") or last
            if "[SUCCESSFUL ]" in line:
                fetched(line.split("!")[-1].split("(")[0].strip())
            elif "module not found" in line or "[FAILED" in line or "[NOT FOUND" in line:
                raise FetchFailed(root(settings), f"{last}: it lacks the file or does not answer")
        if process.wait() != 0:
            raise FetchFailed(root(settings), last or "Ivy failed without a word")
    finally:
        process.kill()
        process.wait()


def _settings_file(settings: Settings, scratch: Path, use_poms: bool) -> str:
    """Ivy's own default is the public repository, so no address is written here unless one is set."""
    top = ElementTree.Element("ivysettings")
    ElementTree.SubElement(top, "property", name="ivy.checksums", value="")  # the lock's SHA-256 decides
    ElementTree.SubElement(top, "settings", defaultResolver="repository")
    ElementTree.SubElement(top, "caches", defaultCacheDir=str(scratch / "ivy"))
    limits = ElementTree.SubElement(ElementTree.SubElement(top, "timeout-constraints"), "timeout-constraint")
    limits.set("name", "patient")
    limits.set("connectionTimeout", str(CONNECT_TIMEOUT_MS))
    limits.set("readTimeout", str(READ_TIMEOUT_MS))
    repository = ElementTree.SubElement(ElementTree.SubElement(top, "resolvers"), "ibiblio")
    repository.set("name", "repository")
    repository.set("m2compatible", "true")
    repository.set("usepoms", str(use_poms).lower())
    repository.set("useMavenMetadata", "false")
    repository.set("timeoutConstraint", "patient")
    if address := _configured_root(settings):
        repository.set("root", address)
    return ElementTree.tostring(top, encoding="unicode")


def root(settings: Settings) -> str:
    """Where the files come from, in words where it is Ivy's default."""
    return _configured_root(settings) or "Ivy's default public repository"


def _configured_root(settings: Settings) -> str | None:
    """`VIGIL_MAVEN_ROOT`, else the mirror that Maven's own settings name for the public repository."""
    if settings.maven_root:
        return settings.maven_root
    try:
        tree = ElementTree.parse(Path.home() / ".m2" / "settings.xml")
    except (OSError, ElementTree.ParseError):
        return None
    for mirror in tree.iter():
        if mirror.tag.endswith("}mirror") or mirror.tag == "mirror":
            fields = {child.tag.split("}")[-1]: (child.text or "").strip() for child in mirror}
            if {"*", "external:*", "central"} & set(fields.get("mirrorOf", "").split(",")):
                return fields.get("url")
    return None


def _proxy_options() -> list[str]:
    """Java does not read the proxy variables other programs share."""
    options = []
    for scheme, address in urllib.request.getproxies().items():
        proxy = urllib.parse.urlparse(address)
        if scheme in ("http", "https") and proxy.hostname:
            options += [f"-D{scheme}.proxyHost={proxy.hostname}", f"-D{scheme}.proxyPort={proxy.port or 80}"]
    return options


def _program() -> Path:
    spec = find_spec("pyspark")
    assert spec is not None and spec.submodule_search_locations, "pyspark is a dependency of this project"
    return next((Path(spec.submodule_search_locations[0]) / "jars").glob("ivy-*.jar"))
