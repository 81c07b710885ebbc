"""What joins an encoder to a language model, one file per connector."""

from mmscale.models.connectors.base import Connected, Connector, ConnectorKind, Depths, connector, kind_of

__all__ = ["Connected", "Connector", "ConnectorKind", "Depths", "connector", "kind_of"]
