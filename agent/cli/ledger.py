"""`candor ledger`: show, verify, audit, export, repair and pay the signed ledgers of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click

from candor.agent.cli.options import FILE, FOLDER, cluster_option, json_option
from candor.agent.core.terms import audit_facts
from candor.agent.daemon.exports import AGENTS_NAME, LEDGER_NAME, write_exports
from candor.agent.daemon.status import data_dirs, misrated_words, read_status
from candor.agent.exits import VERIFICATION_FAILED
from candor.agent.runs.accusations import Accusations, accusations, told_of
from candor.agent.runs.data_dirs import STORE_NAME
from candor.agent.runs.ledger_audit import DATABASE, audit_run_directory, cluster_in, read_export
from candor.mechanisms.ledger.audit import Finding, RunAudit, audit_export
from candor.mechanisms.ledger.bonds import Bond, with_bonds
from candor.mechanisms.ledger.export import parse_export
from candor.mechanisms.ledger.netting import net_transfers
from candor.mechanisms.payments.bills import SignedBill
from candor.mechanisms.payments.credits import CREDIT, format_credits, paid_text
from candor.topologies.cluster.file import load_cluster
from candor.topologies.specs.files import json_text
from candor.topologies.specs.specs import ConfigurationError, printable

_NOT_RECOMPUTED: Final = (
    "; both ends have signed the others, whose claims are not at hand: exports show them with "
    "`candor ledger export --open WINDOW`"
)


@click.group("ledger")
def command() -> None:
    """Show, verify, audit, export, repair and pay signed ledgers.

    Each edge of a run has one: a chain of settlements that both ends have signed. Audits need the
    exports and the cluster file only, no daemon and no database.

    \b
    Examples:
      candor ledger show runs/demo
      candor ledger audit runs/demo
      candor ledger verify a0-a1.jsonl --cluster c.toml
    """


@command.command()
@click.argument("directory", type=FOLDER)
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Show the channels of a data directory, or of every agent in a folder of such or in a run
    directory.

    Balances are what the agent has received net from the neighbour, in credits. A pending proposal
    waits for the neighbour's signature; a refused one is made again with other content; a payment
    outside the system waits until both ends were told of it. A disputed or frozen channel no
    longer settles.

    \b
    Examples:
      candor ledger show /var/lib/candor/a3
      candor ledger show runs/demo --json
    """
    from candor.agent.runs.channels import channel_rows, opened  # with torch behind it

    shown = {}
    for path in _with_ledgers(directory):
        with opened(path) as store:
            shown[path.resolve().name] = channel_rows(store)
    if as_json:
        click.echo(json_text({"agents": shown}, indent=2))
        return
    for name, channels in shown.items():
        click.echo(f"{name}")
        for row in channels:
            click.echo(_channel_line(row))
    click.echo(CREDIT)


def _with_ledgers(directory: Path) -> list[Path]:
    found = data_dirs(directory, STORE_NAME)
    if not found:
        raise ConfigurationError(
            f"{directory}: no {STORE_NAME} here, in {AGENTS_NAME}/* or in *; name the data "
            "directory of an agent, a folder of such or the directory of a run"
        )
    return found


def _channel_line(row: dict[str, Any]) -> str:
    notes = [row["status"]] if row["status"] != "open" else []
    notes += [row["reason"]] if row["reason"] else []
    notes += ["one proposal pending"] if row["pending"] else []
    if row["attempt"]:
        notes.append(f"{row['attempt']} proposal{'s' * (row['attempt'] > 1)} refused")
    if row["payment"]:
        notes.append(f"{paid_text(row['lo'], row['hi'], row['payment'])} waits")
    settled = "no window yet" if row["window"] < 0 else f"up to window {row['window']}"
    owed = _owed(row["lo"], row["hi"], row["balance_lo"])
    tail = f"  ({', '.join(notes)})" if notes else ""
    return f"  {row['lo']}-{row['hi']}  record {row['seq']}, {settled}: {owed}{tail}"


def _owed(lo: str, hi: str, balance_lo: int) -> str:
    """Who owes whom, from what lo is owed."""
    if balance_lo == 0:
        return f"{lo} and {hi} are even"
    debtor, creditor = (hi, lo) if balance_lo > 0 else (lo, hi)
    return f"{debtor} owes {creditor} {format_credits(abs(balance_lo))}"


@command.command()
@click.argument("directory", type=FOLDER)
@click.option("--window", type=click.IntRange(min=0), help="This window only, with all grounds.")
@json_option
def explain(directory: Path, window: int | None, as_json: bool) -> None:
    """Say why an agent was charged: by window and neighbour what each term of the payment rule
    asked for, for which rounds, and what would have been free.

    DIRECTORY is the data directory of an agent, a folder of such or the directory of a run. Each
    end of an edge bills the other, and the edge settles the difference. A term asks for what is
    beyond its free range, where honest agents are taken to be, times its price; what others of the
    neighbourhood are charged is shared out, so that much of what passes along an edge is handed on.
    Beside the windows stands what is owed by proof: the bonds of those who reported falsely.

    \b
    Examples:
      candor ledger explain /var/lib/candor/a3
      candor ledger explain runs/demo --window 2 --json
    """
    from candor.agent.runs.charges import explained, settled_windows, told

    shown = {}
    for path in _with_ledgers(directory):
        settled = settled_windows(path)
        some = [one for one in settled if window in (None, one.window)]
        shown[path.resolve().name] = some
        if not as_json:
            click.echo(path.resolve().name)
            for line in told(some, window):
                click.echo(f"  {line}")
    owed = _bonds_of(directory)
    if as_json:
        told_all = {a: explained(s) for a, s in shown.items()}
        parts = [{"agent": one.agent, "parts": dict(one.parts)} for one in owed]
        click.echo(json_text({"agents": told_all, "bonds": parts}, indent=2))
    else:
        for bond in owed:
            click.echo(_bond_text(bond))
        click.echo(CREDIT)


def _bonds_of(directory: Path) -> tuple[Bond, ...]:
    """What is owed by proofs that lie there; nothing where the run has no bond, or its cluster
    file is not beside."""
    try:
        cluster = cluster_in(directory)
    except ConfigurationError:
        return ()
    return accusations(cluster, directory).bonds if cluster.payments.bond else ()


@command.command()
@click.argument("data_dir", type=FOLDER)
@click.option("--to", "payee", metavar="ID", help="The neighbour that this agent has paid.")
@click.option("--from", "payer", metavar="ID", help="The neighbour that has paid this agent.")
@click.option("--cancel", metavar="ID", help="Take back what was told about this neighbour.")
@click.option("--replace", "old", metavar="OLD", help="Only in the place of this amount.")
@click.argument("amount", required=False)
def pay(
    data_dir: Path,
    payee: str | None,
    payer: str | None,
    cancel: str | None,
    old: str | None,
    amount: str | None,
) -> None:
    """Tell an agent of a payment outside the system, such as a bank transfer, of AMOUNT credits.

    Both ends of the edge must be told of the same amount: then both sign a record of it, the
    balance falls by it, and a neighbour at its credit limit is served again. A running daemon takes
    it within a second, one that was stopped when it is started again; once the run is over it is
    too late. A payment waits while it is more than what is owed. Telling again replaces what was
    told, but if that is on record by then, both count: with --replace the new amount counts only if
    the old one is what was told last, and is never put on record. Ends that were told of different
    amounts refuse each other's: tell the one that was refused again. After sixteen times in a row
    the ledger is disputed for good.

    \b
    Examples:
      candor ledger pay /var/lib/candor/a3 --to a2 12.5
      candor ledger pay /var/lib/candor/a2 --from a3 12.5
      candor ledger pay /var/lib/candor/a3 --to a2 13 --replace 12.5
      candor ledger pay /var/lib/candor/a3 --cancel a2
    """
    from candor.agent.runs.channels import micro_credits, tell_payment

    named = [peer for peer in (payee, payer, cancel) if peer is not None]
    if len(named) != 1 or (amount is None) != (cancel is not None):
        raise click.UsageError("give one of --to ID AMOUNT, --from ID AMOUNT, --cancel ID")
    if cancel is not None and old is not None:
        raise click.UsageError("--replace OLD goes with --to ID AMOUNT or --from ID AMOUNT")
    peer, received = named[0], 0 if amount is None else micro_credits(amount) * (1 if payer else -1)
    replaced = None if old is None else micro_credits(old, "--replace")
    row = tell_payment(data_dir, peer, received, replaced)
    click.echo(_told(row, peer, received))
    if received and read_status(data_dir).state == "done":
        click.echo("but the run is over here: no record of it will be made", err=True)


def _told(row: dict[str, Any], peer: str, received: int) -> str:
    if received == 0:
        return f"told of no payment between this agent and {peer}"
    amount = format_credits(abs(received))
    said = f"told that {peer} has paid {amount}" if received > 0 else f"told of {amount} to {peer}"
    balance = row["balance_lo"] if row["hi"] == peer else row["balance_hi"]
    owed = balance if received > 0 else -balance
    waits = "" if 0 < abs(received) <= owed else "; it waits until that much is owed"
    return f"{said}{waits}; tell {peer} the same"


@command.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@cluster_option
@json_option
@click.pass_context
def verify(
    context: click.Context, files: tuple[Path, ...], cluster_path: Path, as_json: bool
) -> None:
    """Verify ledger exports one by one; exit 3 when one does not hold.

    Keep the file's name, <lo>-<hi>.jsonl: it says which edge it must be of.

    \b
    Example:
      candor ledger verify runs/demo/agents/a0/ledger/*.jsonl --cluster runs/demo/cluster.toml
    """
    facts = audit_facts(load_cluster(cluster_path))
    audits = [audit_export(str(path), read_export(path), facts) for path in files]
    findings = [finding for audit in audits for finding in audit.findings]
    if as_json:
        rows = [
            {
                "file": audit.name,
                "edge": audit.edge,
                "exporter": audit.exporter,
                "seq": audit.position.seq,
                "balance_lo": -audit.position.balance,
                "bills": len(audit.bills),
                "recomputed": audit.recomputed,
                "findings": [asdict(finding) for finding in audit.findings],
            }
            for audit in audits
        ]
        click.echo(json_text({"ok": not findings, "files": rows}, indent=2))
    else:
        for audit in audits:
            if not audit.findings:
                owed = _owed(audit.lo, audit.hi, -audit.position.balance)
                bills = f"{audit.recomputed} of {len(audit.bills)} bills recomputed"
                click.echo(f"{audit.name}: ok, {len(audit.windows)} windows, {bills}, {owed}")
        _print_findings(findings)
    context.exit(VERIFICATION_FAILED if findings else 0)


@command.command()
@click.argument("run_dir", type=FOLDER)
@json_option
@click.pass_context
def audit(context: click.Context, run_dir: Path, as_json: bool) -> None:
    """Audit all ledgers of a run; exit 3 and name file, edge and record when one does not hold.

    RUN_DIR is a run's directory, with cluster.toml and agents/ID/ledger, or a folder of data
    directories that all have the same cluster file. Of one data directory alone, the edges of its
    agent are audited, each from that end.

    Checks every signature, the chain and the bills of every record, compares both ends of each
    edge, and adds up what every agent received. Then says who would pay whom, once, to settle the
    whole run: credits flow along the edges, money need not. Payments are recomputed through the
    run's rule where the signed claims are at hand: in exports that are opened, or in the databases
    of data directories. Elsewhere they rest on both ends of each edge, which recomputed them before
    they signed.

    Whom the agents accuse, by what lies in their data directories, is named beside: proven where
    they keep a proof, else by their word alone. Who is proven to have reported falsely owes its
    bond, if the run has one: the round is done again for that. The exit code is of the ledgers.

    \b
    Example:
      candor ledger audit runs/demo
    """
    cluster, result = audit_run_directory(run_dir)
    accused = accusations(cluster, run_dir)
    result = _with_bonds(result, accused)
    if as_json:
        click.echo(json_text(_audit_json(result, accused), indent=2))
    else:
        _print_audit(cluster.run_id, result, accused)
    context.exit(VERIFICATION_FAILED if result.findings else 0)


def _with_bonds(result: RunAudit, accused: Accusations) -> RunAudit:
    """The audit with what is owed by proof beside what was settled."""
    nets = with_bonds(result.nets, accused.bonds)
    pays = result.whole and sum(nets.values()) == 0
    return replace(result, nets=nets, transfers=tuple(net_transfers(nets)) if pays else ())


def _bond_text(bond: Bond) -> str:
    parts = ", ".join(f"{peer} {format_credits(part)}" for peer, part in bond.parts.items())
    return f"{bond.agent} owes its bond of {format_credits(bond.whole)}: {parts}"


def _audit_json(result: RunAudit, accused: Accusations) -> dict[str, Any]:
    return {
        "audit": "violated" if result.findings else "ok",
        "findings": [asdict(finding) for finding in result.findings],
        "notes": [asdict(note) for note in result.notes],
        "edges": [asdict(edge) for edge in result.edges],
        "nets": dict(result.nets),
        "sum": sum(result.nets.values()),
        "positions": dict(result.nets),
        "transfers": [list(transfer) for transfer in result.transfers],
        "bills": result.bills,
        "recomputed": result.recomputed,
        "proven": [{"file": file, **told_of(one)} for file, one in accused.proven.items()],
        "worthless": dict(accused.worthless),
        "misrated": {agent: dict(by) for agent, by in accused.misrated.items()},
        "bonds": [{"agent": one.agent, "parts": dict(one.parts)} for one in accused.bonds],
    }


def _print_audit(run_id: str, result: RunAudit, accused: Accusations) -> None:
    for edge in result.edges:
        owed = _owed(edge.lo, edge.hi, edge.balance_lo)
        late = ", the last one known to one end only" if edge.unacknowledged else ""
        paid = "".join(f", {paid_text(edge.lo, edge.hi, delta)}" for delta in edge.payments)
        click.echo(f"{edge.lo}-{edge.hi}  {edge.windows} windows{paid}: {owed}{late}")
    for note in result.notes:
        if note.code == DATABASE:
            click.echo(f"note: {printable(note.file)}: {printable(note.detail)}")
    rest = "" if result.recomputed == result.bills else _NOT_RECOMPUTED
    click.echo(f"recomputed {result.recomputed} of {result.bills} bills{rest}")
    for bond in accused.bonds:
        click.echo(_bond_text(bond))
    with_it = ", bonds included" if accused.bonds else ""
    for agent, net in result.nets.items():
        click.echo(f"{agent} received {format_credits(net, signed=True)} net{with_it}")
    if result.whole:
        click.echo(f"sum of all nets: {format_credits(sum(result.nets.values()), signed=True)}")
    for debtor, creditor, amount in result.transfers:
        click.echo(f"to settle: {debtor} pays {creditor} {format_credits(amount)}")
    _print_accused(accused)
    _print_findings(result.findings)
    verdict = f"violated, {len(result.findings)} findings" if result.findings else "ok"
    seen = "" if result.whole else f", as {', '.join(result.nets)} has it"
    click.echo(f"ledger audit of {run_id}{seen}: {verdict}")


def _print_accused(accused: Accusations) -> None:
    files: dict[str, list[str]] = {}
    for file, found in accused.proven.items():
        files.setdefault(str(found), []).append(file)
    for told, kept in files.items():
        more = f" and {len(kept) - 1} more files" if len(kept) > 1 else ""
        click.echo(printable(f"proven: {told}, by {kept[0]}{more}"))
    for file, why in accused.worthless.items():
        click.echo(printable(f"note: {file}: {why}"))
    for told in misrated_words(accused.misrated):
        click.echo(printable(told))


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        click.echo(printable(f"VIOLATION {finding}"))


@command.command()
@click.argument("data_dir", type=FOLDER)
@cluster_option
@click.option(
    "--keys",
    "keys_dir",
    required=True,
    type=FOLDER,
    help="The agent's keys; the export is signed with its identity.",
)
@click.option("-o", "--output", type=FOLDER, help="Where to write; by default DATA_DIR/ledger.")
@click.option(
    "--open",
    "opened",
    metavar="WINDOW",
    multiple=True,
    type=click.IntRange(min=0),
    help="Show the claims of this window, as a dispute may need, with -o; repeat for others.",
)
@json_option
def export(
    data_dir: Path,
    cluster_path: Path,
    keys_dir: Path,
    output: Path | None,
    opened: tuple[int, ...],
    as_json: bool,
) -> None:
    """Export the ledgers of one agent as signed JSON lines, one file an edge; exit 3 and sign
    nothing when what the database holds is damaged, see `candor ledger repair`.

    They show amounts, bills and signatures, and only digests of the claims: a claim has traces of
    an agent's updates, from which records of a small model can be computed. Who doubts an amount
    asks for its window to be opened. That shows the claims of the agent, its neighbour and all that
    both billed in it: ask them first.

    \b
    Examples:
      candor ledger export /var/lib/candor/a3 --cluster c.toml --keys keys/a3 -o exports
      candor ledger export /var/lib/candor/a3 --cluster c.toml --keys keys/a3 -o dispute --open 7
    """
    from candor.agent.daemon import keys
    from candor.agent.runs.channels import channel_rows
    from candor.agent.runs.channels import opened as opened_store

    cluster = load_cluster(cluster_path)
    key = keys.load(keys_dir).signing_key
    agent_id = next((a.id for a in cluster.agents if a.identity == key.public.hex()), None)
    if agent_id is None:
        raise ConfigurationError(
            f"{keys_dir}: no agent of run {cluster.run_id!r} has these keys; "
            "name the keys of the agent whose data directory it is"
        )
    if opened and (output is None or output.resolve() == (data_dir / LEDGER_NAME).resolve()):
        raise ConfigurationError(
            f"--open: {data_dir / LEDGER_NAME} is handed out; name another folder with -o"
        )
    with opened_store(data_dir) as store:
        if opened:
            _check_settled(opened, (row["window"] for row in channel_rows(store)))
        written = write_exports(
            store, cluster, agent_id, key, data_dir, output, opened, audited=True
        )
    shown = {path: _claimants(path) for path in written}
    if as_json:
        files = [str(path) for path in written]
        claims = {str(path): claimants for path, claimants in shown.items()}
        click.echo(json_text({"agent": agent_id, "files": files, "shows_claims_of": claims}))
        return
    for path, claimants in shown.items():
        told = f", shows claims of {', '.join(claimants)}" if claimants else ""
        click.echo(f"{path}{told}")


def _check_settled(windows: Iterable[int], latest: Iterable[int]) -> None:
    last = max(latest, default=-1)
    if beyond := [window for window in windows if window > last]:
        known = f"0 to {last} are" if last >= 0 else "none is yet"
        raise ConfigurationError(f"--open {beyond[0]}: that window is not settled, {known}")


def _claimants(path: Path) -> list[str]:
    """Whose claims an export shows."""
    items = (item for one in parse_export(read_export(path)).records for item in one.evidence)
    bills = (SignedBill.decode(item, may_be_sealed=True) for item in items)
    return sorted({claim.claim().agent for bill in bills for claim in bill.claims})


@command.command()
@click.argument("data_dir", type=FOLDER)
@cluster_option
@click.option(
    "--from",
    "sources",
    required=True,
    multiple=True,
    type=FILE,
    help="A neighbour's export of the edge, LO-HI.jsonl; may be given several times.",
)
@json_option
def repair(data_dir: Path, cluster_path: Path, sources: tuple[Path, ...], as_json: bool) -> None:
    """Restore damaged records of an agent's database from exports of its neighbours.

    Both ends of an edge hold the same records, which both have signed. Each export must hold as
    `candor ledger verify` judges it. A record here that holds stays, also one that is newer than
    the export; where both hold and differ, and where a damaged record is not in the export, nothing
    is changed and the exit code is 3. Claims that were damaged come from an export that shows them,
    as `candor ledger export --open WINDOW` makes it. The daemon must not be running.

    \b
    Example:
      candor ledger repair /var/lib/candor/a3 --cluster c.toml --from a2-a3.jsonl
    """
    from candor.agent.runs.channels import repair_channel

    facts = audit_facts(load_cluster(cluster_path))
    restored = {path: repair_channel(data_dir, path, facts) for path in sources}
    if as_json:
        files = [{"file": str(path), "restored": seqs} for path, seqs in restored.items()]
        click.echo(json_text({"files": files}))
        return
    for path, seqs in restored.items():
        told = f"restored record {', '.join(map(str, seqs))}" if seqs else "nothing was damaged"
        click.echo(f"{path}: {told}")
