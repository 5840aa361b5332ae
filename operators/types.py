"""Types of streams and states as Flink must see them."""

from typing import Any

from pyflink.common import TypeInformation, Types
from pyflink.datastream import DataStream, KeyedStream
from pyflink.java_gateway import get_gateway


class RawBytes(TypeInformation):  # type: ignore[misc]  # pyflink ships no types
    """Bytes that reach keyed state as they are.

    Types.PICKLED_BYTE_ARRAY() would unpickle what it reads, Types.PRIMITIVE_ARRAY(Types.BYTE()) fails on empty state in
    thread mode. A subclass that PyFlink does not know gets its identity converter, and Java's serializer for byte[].
    """

    def get_java_type_info(self) -> Any:  # a Java object
        java = get_gateway().jvm.org.apache.flink.api.common.typeinfo
        return java.PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO


def keyed_row() -> TypeInformation:
    """ROW<key, value>: what a stream must consist of to be keyed without a Python call an event."""
    return Types.ROW([Types.STRING(), RawBytes()])


def key_by_first_field(stream: DataStream) -> KeyedStream:
    """A stream of `keyed_row` keyed by ROW<STRING>, its first field, in Java; functions see the second field."""
    key_type = Types.ROW([Types.STRING()]).get_java_type_info()
    selector = get_gateway().jvm.KeyByKeySelector()
    return KeyedStream(stream._j_data_stream.keyBy(selector, key_type), RawBytes(), stream)
