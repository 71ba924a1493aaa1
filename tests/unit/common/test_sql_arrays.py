"""Arrays as text: PostgreSQL 15, 8.15.6 "Array Input and Output Syntax"."""

from paceline_common.db.sql import bytes_array, number_array, text_array


def test_a_text_stays_one_element_whatever_it_holds() -> None:
    texts = ['say "no"', "back\\slash", "{a,b}", "", "NULL", " x ", "ümläut\n", None]
    assert text_array(texts) == (
        '{"say \\"no\\"","back\\\\slash","{a,b}","","NULL"," x ","ümläut\n",NULL}'
    )


def test_numbers_truths_and_nothing() -> None:
    assert number_array([1, -2, 0.5, None, True, False]) == "{1,-2,0.5,NULL,True,False}"
    assert number_array([]) == text_array([]) == bytes_array([]) == "{}"


def test_bytes_are_hexadecimal() -> None:
    assert bytes_array([b"\x00\xff", b""]) == '{"\\\\x00ff","\\\\x"}'
