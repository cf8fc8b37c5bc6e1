"""What pyproject.toml cannot say: SPEC.md lies at the root of the repository, and beside the kit in a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithSpec(build_py):
    """Copies SPEC.md into the package of the kit, which reads its clauses there."""

    def run(self) -> None:
        """Build, then copy; an editable installation reads the file where it is."""
        super().run()
        if not self.editable_mode:
            shutil.copy(Path(__file__).with_name("SPEC.md"), Path(self.build_lib) / "conformance")


setup(cmdclass={"build_py": WithSpec})
