"""The criteria by name. A new one is a file of its own and a line here."""

from hfgd.losses.cross_entropy import cross_entropy
from hfgd.losses.dice import dice
from hfgd.losses.focal import focal
from hfgd.losses.lovasz import lovasz
from hfgd.losses.ohem import ohem
from hfgd.losses.target import Criterion
from hfgd.losses.tversky import tversky

CRITERIA: dict[str, Criterion] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
    "tversky": tversky,
}
