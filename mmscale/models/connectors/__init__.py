"""What joins an encoder to a language model, one file per connector."""

from mmscale.models.connectors.base import Connector, ConnectorKind, connector, kind_of

__all__ = ["Connector", "ConnectorKind", "connector", "kind_of"]
