"""Makes the stubs of `proto/` a part of the wheel; nothing generated is in the source."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = ["event", "envelope", "agent_host_service"]
PACKAGE = "arcpd_agent/v1"


class Stubs(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        import grpc_tools
        from grpc_tools import protoc

        # Beside this file in a source distribution, above it in the repository.
        places = [Path(self.root) / "proto", Path(self.root).parent / "proto"]
        proto = next(place for place in places if place.is_dir())
        self.out = Path(tempfile.mkdtemp(prefix="arcpd-agent-"))
        arguments = ["protoc", f"-I{proto}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        arguments += [f"--python_out={self.out}", f"--pyi_out={self.out}"]
        if protoc.main(arguments + [f"arcp/v1/{name}.proto" for name in FILES]):
            raise RuntimeError("protoc failed; see above")
        for path in (self.out / "arcp/v1").iterdir():
            # A package called `arcp` would be in the way of others of that name.
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("from arcp.v1 import", "from arcpd_agent.v1 import"), encoding="utf-8")
            build_data["force_include"][str(path)] = f"{PACKAGE}/{path.name}"
        build_data["pure_python"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
