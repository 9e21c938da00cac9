"""A Slurm cluster of a test session's own: a controller and node daemons on this machine, without root's rights.

Debian's Slurm needs neither systemd nor munge for this: no authentication, process groups for tracking, and a folder of
its own. Nodes are names of one machine on several ports; jobs that wait for something have one of their own (n3).
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
NODES = ("n1", "n2", "n3")
_CONFIGURATION = """\
ClusterName=kmed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=5
KillWait=20
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=1 RealMemory=1000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=apart Nodes=n3
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """Its daemons, and its commands through the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "state").mkdir()
        with contextlib.ExitStack() as probes:
            sockets = [probes.enter_context(socket.socket()) for _ in range(4)]
            for probe in sockets:
                probe.bind(("127.0.0.1", 0))
            ports = [probe.getsockname()[1] for probe in sockets]
        text = _CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=folder,
            ports=ports,
        )
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.until(self._is_up, "the cluster")

    def _is_up(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):  # the controller does not listen yet
            return self.nodes() == dict.fromkeys(NODES, "idle")
        return False

    def start_node(self, node: str) -> None:
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._daemon(node, "slurmd", "-D", "-N", node)

    def _daemon(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            command = [*words, "-f", self.env["SLURM_CONF"]]
            self._daemons[name] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def kill_node(self, node: str) -> None:
        """Kill a node with all that it runs, as a power cut does."""
        tasks = self._processes(SLURMD_NODENAME=node)
        steps = [one.parent() for one in tasks]
        daemon = self._daemons.pop(node)
        daemon.kill()
        for process in [*steps, *tasks]:  # the steps first, which would tell the controller of their tasks' ends
            if process is not None and (process in tasks or "slurmstepd" in process.name()):
                process.kill()
        daemon.wait()

    def kill_task(self, index: int) -> None:
        """Kill the process of an array's task, as the system does where memory runs out."""
        for process in self._processes(SLURM_ARRAY_TASK_ID=str(index)):
            process.kill()

    def _processes(self, **variables: str) -> list[psutil.Process]:
        """The processes of jobs that have these variables."""
        wanted, found = {**self.env, **variables}.items(), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if wanted <= process.environ().items():
                    found.append(process)
        return found

    def ask(self, *words: str) -> str:
        env = {**os.environ, **self.env}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def nodes(self) -> dict[str, str]:
        lines = self.ask("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return {name: state.rstrip("*~#") for name, state in map(str.split, lines)}

    def states(self, *jobs: str) -> dict[str, str]:
        """The state of each task, of jobs that the controller still knows."""
        found = self.ask(
            "squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i %T"
        )
        return dict(line.split() for line in found.splitlines())

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
        begun_s = time.monotonic()
        while not holds():
            if dead := [name for name, daemon in self._daemons.items() if daemon.poll() is not None]:
                raise AssertionError(f"{', '.join(dead)} ended while waiting for {what}\n{self.describe()}")
            if time.monotonic() - begun_s > timeout_s:
                raise AssertionError(f"waited {timeout_s:.0f} s for {what}\n{self.describe()}")
            time.sleep(0.1)

    def describe(self) -> str:
        """What the cluster says of itself, for a failing test."""
        said = [f"{path.name}:\n{path.read_text(errors='replace')[-2_000:]}" for path in self.folder.glob("*.[lo]*")]
        with contextlib.suppress(subprocess.CalledProcessError):
            said.insert(0, self.ask("squeue", "--states=all", "--array", "--format=%i %j %T %N %r"))
            said.insert(1, str(self.nodes()))
        return "\n".join(said)

    def begin_now(self, job: str) -> None:
        """Let a requeued job begin, which Slurm holds for two minutes, once that is why it waits.

        Before, its last run is still being cleared away: Slurm 22.05 sets the two minutes afterwards, or takes a late
        message of that run's end for the end of the next one.
        """
        held = ["squeue", "--noheader", "--array", "--states=PENDING", f"--jobs={job}", "--format=%r"]
        self.until(lambda: self.ask(*held) == "BeginTime", f"job {job} to be held")
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            self.ask("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            self.ask("scancel", f"--user={getpass.getuser()}")
        for node in [name for name in NODES if name in self._daemons]:
            self.kill_node(node)
        for daemon in self._daemons.values():
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(timeout=30)


@contextlib.contextmanager
def running_slurm() -> Iterator[Cluster]:
    """Yield a cluster that ends with the block."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}); Debian: slurmctld slurmd slurm-client")
    folder = Path(tempfile.mkdtemp(prefix="kmed-slurm-"))
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PATH", path)
        cluster = Cluster(folder)
        changed.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)
