"""The node's end of CNI: what the plugin asks, who answers it, and how it gets on the node and off again."""
